"""Weights files: one `.safetensors` with the configuration that rebuilds the network."""

import dataclasses
import json
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from crossd import __version__
from crossd.conversion import adapt, registry
from crossd.conversion.baselines import acs
from crossd.conversion.building import rank_of
from crossd.conversion.convert import convert
from crossd.conversion.cycle import cycle
from crossd.conversion.folding.modules import source_class
from crossd.conversion.plain import to_2d, to_3d
from crossd.conversion.report import ConversionReport
from crossd.errors import InputError, require_kinds
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.tasks import TASKS, Scale
from crossd.utils.atomic_files import atomic

FORMS = ("cross", "2d", "3d", "acs", "cycle")
PLANAR = {"acs": acs, "cycle": cycle}
"""Forms whose 2D kernels look at planes of volumes, and what makes them of a 2D network."""
KEY = "crossd"


@dataclass(frozen=True)
class WeightsConfig:
    """What rebuilds a network, stored as JSON in the metadata of its weights file.

    Attributes:
        model: A name for `crossd.conversion.registry.build`, or ``"custom"``.
        task: One of `crossd.tasks.TASKS`.
        in_channels: Channels of the images and volumes.
        classes: Names of the classes, findings or numbers in the order of the logits.
        form: ``"cross"`` (images and volumes), ``"2d"``, ``"3d"``, ``"acs"`` or ``"cycle"``.
        kernel_mode: Of a Cross-D network.
        mode_options: What `crossd.convert` was given.
        decided: What it decided, so that loading decides nothing; None for a plain network, and
            before a network is saved.
        mean: Mean of the training images, which was subtracted.
        std: Standard deviation of the training images, which was divided by.
        size: Spatial size of the training images.
        spacing: Of volumes (z, y, x) [mm], if known.
        plan: How volumes that come as files are prepared, as `plan_file.to_record` gives it.
        values: What stands for each class in the files of masks.
        units: Of the numbers of a regression, "" where it is not said.
        number_mean: Their means: a network gives (number - mean) / std.
        number_std: Their standard deviations.
        modalities: Files of each case that it was trained on, whose channels are put together; 0
            where that is unknown, as of arrays and in files of older versions.
        ignore: What stood there for voxels that are not known; None where all were.
        answer: How it answers on volumes, see `crossd.inference.slice_ensemble.answering`.
        recalibrated: Whether BatchNorm was measured on volumes; False after training on images.
        version: Of crossd, when saved.
    """

    model: str
    task: str
    in_channels: int
    classes: tuple[str, ...]
    form: str = "cross"
    kernel_mode: str = "projection"
    mode_options: dict[str, Any] = field(default_factory=dict)
    decided: dict[str, object] | None = None
    mean: float = 0.0
    std: float = 1.0
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    plan: dict[str, object] | None = None
    values: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    number_mean: tuple[float, ...] = ()
    number_std: tuple[float, ...] = ()
    modalities: int = 0
    ignore: int | None = None
    answer: str = "volume"
    recalibrated: bool = True
    version: str = ""

    @property
    def scale(self) -> Scale | None:
        """How numbers are standardised; None for tasks without.

        Networks of others give numbers as they are.
        """
        if self.task != "regression":
            return None
        count = len(self.classes)
        return Scale(self.number_mean or (0.0,) * count, self.number_std or (1.0,) * count)

    @property
    def is_of_0_1(self) -> bool:
        """Whether version 0.1 wrote the file."""
        return self.version.startswith("0.1.")

    def build(self, model: nn.Module | None = None) -> nn.Module:
        """Build the network with new weights, from `model` (a 2D network) if it is custom."""
        if model is None:
            if self.model == "custom":
                raise InputError("the weights are of a custom model: give its 2D network as model=")
            model = registry.build(self.model, self.task, self.in_channels, len(self.classes))
        options = dict(self.mode_options)
        if self.is_of_0_1:
            options = {**OF_0_1, **options}
        return reshape(model, self.form, self.kernel_mode, decided=self.decided, **options)


OF_0_1 = {
    "check": False,
    "spread": False,
    "attention": "slice",
    "depth_padding": "zeros",
}
"""How version 0.1 converted: its files say nothing of it."""

OTHERWISE_IN_0_1 = ("GlobalContext", "SpaceToDepth", "DepthToSpace")
"""Layers, by the names of their classes, that looked at single slices of volumes in version 0.1 and
see the volume now. Pools to several places, which cut depth otherwise, are found by their size."""


def _differing(net: nn.Module) -> str | None:
    """Name a layer by which version 0.1 answered on volumes otherwise than we do."""
    for path, module in net.named_modules():
        name = source_class(module).__name__
        pools = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        places = module.output_size if pools else 1
        one = {*(places if isinstance(places, tuple) else (places,))} <= {1, None}
        if not one or name in OTHERWISE_IN_0_1:
            return f"{path!r} ({name})"
    return None


def reshape(
    model: nn.Module,
    form: str,
    kernel_mode: str = "projection",
    view: str = "axial",
    decided: dict[str, object] | None = None,
    **options: Any,
) -> nn.Module:
    """Bring a copy of a 2D or 3D network into one of the `FORMS`.

    The view is that in which the kernels of a 2D network were taken from 3D ones, `decided` what an
    earlier conversion of the network decided, and all else what `crossd.convert` takes.
    """
    if form in PLANAR or (form == f"{rank_of(model)}d" and decided is None):
        channels, classes = options.get("in_channels"), options.get("num_classes")
        model, _ = adapt.adapted(model, channels, classes)
        if form == "cycle":
            return cycle(model, options.get("order"))
        return acs(model) if form == "acs" else model
    net = convert(model, kernel_mode, decided=decided, **options)
    if form == "cross":
        return net
    return to_2d(net, view) if form == "2d" else to_3d(net)


def save(net: nn.Module, path: str | Path, config: WeightsConfig | None = None) -> None:
    """Write a network's weights and configuration to one `.safetensors` file.

    Args:
        net: The network.
        path: The file; it appears whole or not at all.
        config: Its configuration; None takes `net.config`, which `load` left there.

    Raises:
        InputError: "no configuration" when there is none, or what no file can rebuild.

    Example:
        >>> import tempfile, torch
        >>> config = WeightsConfig("resnet-small", "classification", 1, ("a", "b"))
        >>> path = Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> save(config.build(), path, config)
        >>> load(path)(torch.zeros(1, 1, 8, 8, 8)).shape
        torch.Size([1, 2])
    """
    config = require_config(net, config)
    recipe = getattr(net, "crossd_recipe", None)
    if recipe is not None:  # what the network is counts, whatever the configuration says
        options = {**config.mode_options, **recipe["mode_options"]}
        config = dataclasses.replace(config, **{**recipe, "mode_options": options})
    if config.form not in FORMS:
        raise InputError(
            f"a {config.form} network is not rebuilt from a file: save the network before to_3d, "
            "or write this one by crossd.export"
        )
    config = dataclasses.replace(config, version=__version__)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_state(net).items()}
    metadata = {KEY: json.dumps(dataclasses.asdict(config))}
    with atomic(path) as temporary:
        temporary.write_bytes(serialise(state, metadata))


def config_of(net: nn.Module) -> WeightsConfig | None:
    """Give the configuration that `load` or a user left at a network; see `load`."""
    found = (getattr(net, name, None) for name in ("crossd_config", "config"))
    return next((config for config in found if isinstance(config, WeightsConfig)), None)


def require_config(net: nn.Module, config: WeightsConfig | None = None) -> WeightsConfig:
    """Return a configuration, or the one at a network.

    Raises:
        InputError: "no configuration" when there is neither.
    """
    found = config or config_of(net)
    if found is None:
        raise InputError("no configuration: pass a WeightsConfig, so that load can rebuild the net")
    return found


def unique_state(net: nn.Module) -> dict[str, Tensor]:
    """Give the state dict with every shared tensor once, under its first name."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


def read_config(path: str | Path) -> WeightsConfig:
    """Read the configuration of a weights file.

    Raises:
        InputError: "... is not a crossd weights file" or "no such file".
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path} (a crossd weights file was expected)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        values = json.loads(metadata[KEY])
        names = {f.name for f in dataclasses.fields(WeightsConfig)}
        config = WeightsConfig(**{key: value for key, value in values.items() if key in names})
        config = dataclasses.replace(
            config,
            classes=tuple(config.classes),
            size=tuple(config.size),
            values=tuple(config.values),
            units=tuple(config.units),
            number_mean=tuple(config.number_mean),
            number_std=tuple(config.number_std),
            spacing=None if config.spacing is None else tuple(config.spacing),
        )
    except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a crossd weights file ({type(error).__name__}): give a .safetensors "
            "file written by crossd; `crossd convert --model NAME` turns those of others into one"
        ) from error
    require_kinds(config, str(path))
    channels, classes = config.in_channels, config.classes
    is_numbers = config.task == "regression"
    for name, right in (
        ("model", isinstance(config.model, str)),
        ("task", config.task in list(TASKS)),
        ("in_channels", isinstance(channels, int) and channels > 0),
        ("classes", bool(classes) and all(isinstance(one, str) for one in classes)),
        ("decided", isinstance(config.decided, dict | None)),
        ("plan", isinstance(config.plan, dict | None)),
        ("number_mean", len(config.number_mean) == len(config.number_std)),
        ("number_std", len(config.number_std) in (0, len(classes) if is_numbers else 0)),
        ("ignore", isinstance(config.ignore, int | None)),
    ):
        if not right:
            raise InputError(f"{path}: {name} (={getattr(config, name)!r}) is damaged")
    if config.form not in FORMS:
        raise InputError(f"{path}: form (={config.form!r}) must be one of {', '.join(FORMS)}")
    return config


def is_ours(path: str | Path) -> bool:
    """Tell whether a file is a weights file of crossd."""
    try:
        read_config(path)
    except InputError:
        return False
    return True


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Rebuild a network from its weights file.

    Args:
        path: A file written by `save`.
        model: For weights of a custom model, its 2D network; it is not changed.

    Returns:
        The network in evaluation mode, with its configuration at `config`; at `crossd_config` where
        a network of others has a `config` of its own.

    Raises:
        InputError: "... is not a crossd weights file", or what does not fit.

    Warns:
        UserWarning: Of a file of version 0.1 with layers that answered on volumes otherwise there.
    """
    config = read_config(path)
    try:
        net = config.build(model)
    except TypeError as error:  # of arguments that convert does not know
        options = sorted(config.mode_options)
        raise InputError(f"{path}: mode_options (={options}) do not fit: {error}") from error
    state = load_file(path)
    wanted = unique_state(net)
    wrong = [
        name
        for name in {**wanted, **state}
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    ]
    if wrong:
        why = "was the file changed, or the model given another one?"
        if config.is_of_0_1 and any(
            source_class(m).__name__ == "CondConv2d" for m in net.modules()
        ):
            why = f"version {config.version} kept mixtures of convolutions otherwise: load it there"
        raise InputError(
            f"{path} does not fit the network {config.model!r}: {len(wrong)} tensors differ, "
            f"the first is {wrong[0]!r}; {why}"
        )
    versioned: Any = OrderedDict(state)
    versioned._metadata = getattr(net.state_dict(), "_metadata", None)  # some (MNASNet) ask for it
    net.load_state_dict(versioned, strict=False)
    differing = _differing(net) if config.is_of_0_1 else None
    if differing and config.form in ("cross", "3d"):
        warnings.warn(
            f"{path} is of version {config.version}, which answered on volumes otherwise: layer "
            f"{differing} takes depth otherwise now; score it again before you rely on it",
            stacklevel=2,
        )
    setattr(net, "crossd_config" if hasattr(net, "config") else "config", config)
    return net.eval()


def convert_file(
    path: str | Path,
    to: str,
    out: str | Path,
    view: str = "axial",
    align: bool = False,
    lift: str = "center",
) -> ConversionReport:
    """Convert a weights file to another of the `FORMS`.

    Args:
        path: The weights file.
        to: ``"2d"`` or ``"3d"`` for a file of a network that takes images and volumes;
            ``"cross"`` for one of a plain network; ``"acs"`` or ``"cycle"`` for a plain 2D one.
        out: The file to write.
        view: Which 2D network to take.
        align: As of `crossd.to_3d`.
        lift: How ``"cross"`` puts the kernels of a 2D network into 3D ones, as of `crossd.convert`.

    Raises:
        InputError: when the file is in that form already, or cannot be brought to it.
    """
    net = load(path)
    config = require_config(net)
    if config.form == to:
        raise InputError(f"{path} holds a {to} network already")
    check_turn(to, config.kernel_mode, view, align)
    if lift != "center" and (to, config.form) != ("cross", "2d"):
        raise InputError(f"--lift {lift} is for --to cross, of a plain 2D network")
    if to in PLANAR and config.form != "2d":
        raise InputError(
            f"{path} holds a {config.form} network, which cannot become {to}: that is for plain 2D "
            "ones"
        )
    if to in ("cross", *PLANAR) and config.form == _plain_form(config):
        if config.mode_options.get("view", "axial") != "axial":
            raise InputError(f"{path} holds a 2D network taken in another view than the axial one")
        options = {k: v for k, v in config.mode_options.items() if k != "view"}
        if to in PLANAR:
            result = PLANAR[to](net)
        else:
            result = convert(net, config.kernel_mode, lift=lift, **options)
    elif (config.form, to) == ("cycle", "3d"):
        raise InputError(
            f"{path} holds a cycle network: crossd export --to 3d writes it for volumes"
        )
    elif to in ("2d", "3d") and config.form in ("cross", *PLANAR):
        if view != "axial" and config.form != "cross":
            raise InputError(f"{path} holds a network of {config.form}, which has one 2D network")
        result = to_2d(net, view) if to == "2d" else to_3d(net, align)
    else:
        raise InputError(
            f"{path} holds a {config.form} network, which cannot become {to}: {to_cross(config)}"
        )
    save(result, out, dataclasses.replace(config, form=to, answer="volume"))
    report: Any = result.conversion
    return report


def require_rank(config: WeightsConfig, rank: int, where: str) -> None:
    """Refuse images (2) or volumes (3) that a plain network cannot take; `where` names them.

    Raises:
        InputError: "...: a plain ... network cannot take ...".
    """
    if config.form in ("2d", "3d") and config.form != f"{rank}d":
        kind, what = config.form.upper(), "images" if rank == 2 else "volumes"
        raise InputError(f"{where}: a plain {kind} network cannot take {what}: {to_cross(config)}")


def require_for_images(config: WeightsConfig, what: str) -> None:
    """Refuse images where values are standardised as those of volumes; `what` says what they are.

    Raises:
        InputError: "..., but the weights are for volumes".
    """
    if len(config.size) == 3:
        raise InputError(
            f"{what}, but the weights are for volumes and standardise values as theirs: give "
            "weights that were trained on images"
        )


def require_files(config: WeightsConfig, count: int, where: str) -> None:
    """Refuse cases of another number of files than those that a network was trained on.

    Args:
        config: Of the network; where it does not know the number, nothing is refused.
        count: Files of a case, 0 where that is unknown.
        where: Names the case.

    Raises:
        InputError: With what to give.
    """
    wanted = config.modalities
    if wanted and count and count != wanted:
        files = "one file" if wanted == 1 else f"{wanted} files (modalities)"
        how = (
            "give each file as a case of its own"
            if wanted == 1
            else f"give a folder of NAME_0000 to NAME_{wanted - 1:04}, or a csv with a column "
            "image... for each"
        )
        raise InputError(
            f"{where}: has {count} file{'s' * (count > 1)} a case, but the weights were trained on "
            f"{files} a case; {how}"
        )


def to_cross(config: WeightsConfig) -> str:
    """Say how one comes from a plain network to one that takes images and volumes."""
    if config.model != "custom" and config.form == _plain_form(config):
        return "bring it to Cross-D first with crossd convert --to cross"
    return "give the Cross-D weights that it was taken from"


def _plain_form(config: WeightsConfig) -> str:
    """Give the form of the network that a configuration names, before any conversion."""
    source = registry.build(config.model, config.task, config.in_channels, len(config.classes))
    return f"{rank_of(source)}d"


def check_turn(to: str, kernel_mode: str, view: str, align: bool) -> None:
    """Refuse options of a conversion that would have no effect.

    Raises:
        InputError: "view ..." or "align ...".
    """
    if view != "axial" and to != "2d":
        raise InputError(f"view (={view!r}) is for a conversion to 2d, not to {to}")
    if align and (to != "3d" or not KERNEL_MODES[kernel_mode].displaces):
        raise InputError("align is for a conversion from the fourier modes to 3d")
