"""`crossd inspect`: what weights hold, what they look at, and what data are like, in pictures."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from crossd.cli.opening import as_trained
from crossd.cli.options import InspectConfig
from crossd.data.dataset import Samples, Subset
from crossd.data.patches import Patches
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import Survey, survey
from crossd.data.slicing import as_images
from crossd.data.source import Source
from crossd.data.splits import spread
from crossd.errors import InputError
from crossd.nn.kernel_modes import Fourier
from crossd.nn.views import VIEWS
from crossd.reports import (
    data_sheet,
    gradcam,
    html,
    kernel_numbers,
    kernels,
    markdown,
    pictures,
    poses,
)
from crossd.reports.kernel_numbers import Layer
from crossd.tasks import strata, task_of, with_units
from crossd.training import config as training_config
from crossd.training import devices, metrics, validate
from crossd.training.batches import view_of
from crossd.utils.option_values import choice, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder
from crossd.weights.weights_file import WeightsConfig, load, read_config, require_rank

SEEN = 4
"""Samples that Grad-CAM is drawn of."""

IMAGES = 600
"""Images whose poses are collected, at most."""

SCANS = ("data.png", "grad-cam.png", "answer.png", "kernels.png", "kernels.gif")
"""Pictures of samples, or whose text names colours, which a dark page leaves as they are."""


@dataclass
class Findings:
    """What goes into the report.

    Attributes:
        folder: Where the pictures are.
        lines: Of Markdown.
        said: One sentence or two of each section, for the terminal.
        headline: What matters most, for the page.
        results: For machines.
    """

    folder: Path
    lines: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    headline: str = ""
    results: dict[str, object] = field(default_factory=dict)

    def section(self, title: str, picture: str, reading: str, explanation: str = "") -> Path:
        """Write down a section; returns where its picture belongs."""
        shown = [f"![{title}]({picture})", "", f"**{reading}**"]
        self.lines += markdown.section(title, shown)
        if explanation:
            self.lines += ["", explanation]
        self.said.append(reading)
        return self.folder / picture


def inspect(config: InspectConfig, progress: Progress) -> str:
    """Look at weights, at data, or at both; returns what to print.

    Raises:
        InputError: When there is nothing to look at, or it cannot be read.
    """
    choice(config.part, ("train", "val", "test"), "--part")
    if config.weights is None and config.data is None:
        raise InputError("give --weights, --data or both: there is nothing to look at")
    if config.data is None:
        unused(config, ("ignore",), "is for --data, which are not given")
    start = time.perf_counter()
    if config.weights is None:
        unused(config, ("layer", "part", "accept"), "is for --weights, which are not given")
        assert config.data is not None
        found = survey(config.data, config.limit, config.seed, progress, config.ignore)
        out = Findings(claim_folder(config))
        _data_section(out, found)
    else:
        weights = read_config(config.weights)
        net = load(config.weights)
        listed = kernel_numbers.layers_of(net)
        layer = _chosen(listed, config)
        source = None if config.data is None else _source(config, weights, progress)
        out = Findings(claim_folder(config))
        out.lines += ["", *_of_weights(config, weights, listed)]
        _kernel_sections(out, listed, layer)
        if source is not None:
            _pose_sections(out, net, source, layer, config, progress)
            if source.rank == 3 and weights.form == "2d":
                source = as_images(source, None, None)
            show = _mask_section if task_of(source.task).masks else _cam_section
            show(out, net, source, config)
    return _written(out, config, start)


def _data_section(out: Findings, found: Survey) -> None:
    listed = faults(found)
    data_sheet.draw(found, out.folder / "data.png")
    out.lines += markdown.section("The data", data_sheet.markdown(found, listed))
    out.headline = data_sheet.reading(found, listed)
    out.said += [found.sentence(), out.headline]
    out.results["data_sheet"] = data_sheet.record(found, listed)


def _chosen(listed: Sequence[Layer], config: InspectConfig) -> Layer:
    """Return the layer to draw: the one asked for, or the first whose kernels have a depth."""
    if not listed:
        raise InputError(f"{config.weights}: no layer has kernels larger than one voxel")
    if config.layer is None:
        return next((one for one in listed if one.solid), listed[0])
    for one in listed:
        if one.name == config.layer:
            return one
    near = ", ".join(one.name for one in listed[:12])
    more = ", ..." if len(listed) > 12 else ""
    raise InputError(f"--layer {config.layer}: no such layer; there are {near}{more}")


def _source(config: InspectConfig, weights: WeightsConfig, progress: Progress) -> Source:
    source = as_trained(config, weights, progress)
    if source.rank == 2:
        require_rank(weights, 2, source.name)
    return source


def _of_weights(
    config: InspectConfig, weights: WeightsConfig, listed: Sequence[Layer]
) -> list[str]:
    """Say what the weights are, and what is not to be seen in their form."""
    what = {
        "cross": f"Cross-D, kernel mode {weights.kernel_mode}: one set of 3D kernels for images "
        "and volumes",
        "3d": "a plain 3D network",
        "2d": "a plain 2D network",
        "acs": "a 2D network used in three planes (ACS)",
        "cycle": "a 2D network whose layers look at three planes in turn (PlaneCycle)",
    }[weights.form]
    lines = [
        f"`{config.weights}`: {weights.model} for {weights.task}, {what}. "
        f"{len(listed)} layers have kernels larger than one voxel.",
    ]
    if not any(one.solid for one in listed):
        lines += [
            "",
            "Its kernels have no depth, so there is nothing to say of views, of energy by depth or "
            "of a lift: `crossd convert --to cross` makes 3D kernels of them.",
        ]
    elif weights.form == "3d":
        lines += [
            "",
            "It takes no images any more. The 2D kernels are those that each mode would take from "
            "its kernels; poses are not to be had.",
        ]
    return lines


def _kernel_sections(out: Findings, listed: Sequence[Layer], layer: Layer) -> None:
    records = [kernel_numbers.describe(one) for one in listed]
    out.results["layers"] = records
    solid = [one for one in records if "energy" in one]
    own = [one for one in records if one["layer"] == layer.name]
    first = kernel_numbers.depth_reading(own) if layer.solid else "Its 2D kernels, strongest first."
    how = (
        "A 2D kernel of the projection is the sum along the axis of the view, one of the slice "
        "mode the central slice; the fourier mode shifts the 3D kernel first."
    )
    path = out.section(
        f"The kernels of layer {layer.name}", "kernels.png", first, how if layer.solid else ""
    )
    kernels.kernels(layer, path)
    if not solid:
        return
    if isinstance(layer.mode, Fourier) and layer.mode.predictor is not None:
        path = out.section(
            "The kernels along a path of axes and angles",
            "kernels.gif",
            "What moves is where the 3D kernel is cut, and the kernel in its plane: a shift, not a "
            "rotation.",
            "The axis turns from z to y to x and back, the angle swings between -45 and 45 "
            "degrees; below is the shift that they amount to.",
        )
        kernels.animate(layer, path)
    path = out.section(
        "Is the depth used?",
        "energy.png",
        kernel_numbers.depth_reading(solid),
        "Energy is the sum of the squared weights. Of the fourier mode, kernels are first moved by "
        "the mean displacement of training, to where 2D training used them.",
    )
    kernels.energies(solid, path)
    out.headline = kernel_numbers.depth_reading(solid).partition(" (In the plane")[0]
    path = out.section("Are the views alike?", "similarity.png", kernel_numbers.view_reading(solid))
    kernels.similarities(solid, path)


def _pose_sections(
    out: Findings,
    net: nn.Module,
    source: Source,
    layer: Layer,
    config: InspectConfig,
    progress: Progress,
) -> None:
    """Collect and draw what the fourier mode predicts for images, or for slices of volumes."""
    if not poses.modes_of(net):
        return
    planes = as_images(source, None, None)
    part = _some(getattr(planes, config.part), min(config.limit, IMAGES))
    groups: list[int] = []
    by_class = source.task == "classification"  # else there are no classes to tell poses apart by
    options = training_config.TrainConfig(batch_size=16, precision=config.precision)
    with progress.task("collecting poses", total=len(part)) as bar, poses.recorded(net) as found:
        for _, batch in validate.answers(net, part, options, source.task):
            groups += batch["label" if by_class else "view"].tolist()
            bar.advance(len(batch["image"]))
    told = np.array(groups)
    kind = "classes" if by_class else "views"
    records = poses.summary(found, told)
    out.results["poses"] = {"images": len(told), "groups": kind, "layers": records}
    path = out.section(
        "Which poses the layers predict",
        "poses.png",
        poses.reading(records, kind),
        "Each line is the histogram of one layer. A narrow one says that all images get the same "
        "kernels. The three shifts always add up to three times their value at angle 0.",
    )
    poses.layers(found, path)
    name = layer.name if layer.name in found else next(iter(found))
    share = next(one["told by class"] for one in records if one["layer"] == name)
    text = (
        f"In layer {name}, the {kind} do not differ."
        if share is None
        else f"In layer {name}, {100 * share:.0f} % of the movement lies between {kind}."
    )
    names = dict(enumerate(source.classes if by_class else VIEWS))
    path = out.section(f"Poses and {kind}", "poses-classes.png", text)
    title = f"What layer {name} predicts for images of different {kind}"
    poses.classes(found[name], told, {**names, -1: "unknown"}, title, path)


def _some(samples: Samples, count: int) -> Samples:
    return Subset(samples, spread(len(samples), count))


def _cam_section(out: Findings, net: nn.Module, source: Source, config: InspectConfig) -> None:
    """Draw Grad-CAM of samples that differ in what is true of them."""
    samples = getattr(source, config.part)
    assert samples.labels is not None
    fabric = devices.single_device(config.precision)
    net.eval().to(fabric.device)
    seen = []
    layer = ""
    whole = Patches(samples, samples.patch, config.seed, center=True)
    groups = strata(source.task, samples.labels, len(samples))
    for place in _one_of_each(groups, SEEN):
        sample = whole[place]
        x = fabric.to_device(sample["image"][None].to(devices.dtype_of(net)))
        batch = {"image": x, "view": np.array([sample.get("view", -1)])}
        with fabric.autocast(), view_of(batch, net):
            layer = layer or gradcam.last_map(net, x)
            heat, said = gradcam.look(net, x, layer, source.task)
        seen.append(
            gradcam.CamOfSample(
                samples.name(place),
                sample["image"][0].numpy(),
                heat,
                *_told(source, said, samples.labels[place]),
            )
        )
    out.results["grad_cam"] = {
        "layer": layer,
        "samples": [
            {
                "name": one.name,
                "answer": one.answer,
                "truth": one.truth,
                "probability": one.probability,
                "maximum": [int(i) for i in np.unravel_index(one.heat.argmax(), one.heat.shape)],
            }
            for one in seen
        ],
    }
    path = out.section(
        "What the answers rest on",
        "grad-cam.png",
        gradcam.reading(seen),
        f"Grad-CAM (Selvaraju et al. 2017) at `{layer}`, the last layer with places; yellow speaks "
        "most for the answer. It is as coarse as that layer.",
    )
    gradcam.draw(seen, layer, path, source.spacing)


def _told(source: Source, said: Tensor, truth: ArrayLike) -> tuple[str, str, float | None]:
    """Put the answer that Grad-CAM is about in words, what is true of it, and its probability."""
    best, true = int(said.argmax()), np.asarray(truth)
    if source.task == "classification":
        return source.classes[best], source.classes[int(true)], float(said[best])
    if source.task == "multilabel":
        name = source.classes[best]
        known = {1.0: name, 0.0: f"without {name}"}
        return name, known.get(float(true[best]), "not known"), float(said[best])
    scale = source.scale_of_numbers()
    assert scale is not None
    (name,) = with_units(source.classes[:1], source.units[:1])
    value = float(scale.restored(said[None])[0, 0])
    return f"{name}: {value:.4g}", f"{float(true[0]):.4g}", None


def _one_of_each(labels: NDArray[np.int64], count: int) -> Iterator[int]:
    present = np.unique(labels)
    for label in present[np.unique(np.linspace(0, len(present) - 1, count).astype(int))]:
        yield int(np.flatnonzero(labels == label)[0])


def _mask_section(out: Findings, net: nn.Module, source: Source, config: InspectConfig) -> None:
    """Draw the answer to the first sample over it, beside the truth."""
    samples = _some(getattr(source, config.part), 1)
    options = training_config.TrainConfig(batch_size=1, precision=config.precision)
    answer, batch = next(iter(validate.answers(net, samples, options, source.task)))
    guess, truth = answer[0].cpu(), batch["mask"][0].cpu()
    dices = metrics.dice(guess, truth, len(source.classes))
    known = dices[np.isfinite(dices)]
    dice = float(known.mean()) if len(known) else None
    said = "no Dice, as no label is in it" if dice is None else f"mean Dice {dice:.2f}"
    out.results["answer"] = {
        "sample": samples.name(0),
        "dice": dict(zip(source.classes[1:], map(float, dices), strict=True)),
    }
    path = out.section(
        "What the network answers",
        "answer.png",
        f"{samples.name(0)}: {said}.",
        "The slices with most foreground in each view; the white line is the outline of the truth. "
        "`crossd evaluate` scores all samples.",
    )
    image = batch["image"][0, 0].cpu().numpy()
    pictures.answer(image, truth.numpy(), guess.numpy(), source.classes, path, dice, source.spacing)


def _written(out: Findings, config: InspectConfig, start: float) -> str:
    name = Path(config.weights or config.data or "").name
    results = markdown.record(config, start, **out.results)
    text = markdown.ended([f"# crossd inspect: {name}", *out.lines], results)
    headline = out.headline or out.said[0]
    shown = html.render(text, headline, out.folder, scans=SCANS)
    markdown.write(results, out.folder, text, {"report.html": shown})
    written = f"written: {out.folder}/report.html, report.md, metrics.json and pictures"
    return "\n".join([*out.said, written])
