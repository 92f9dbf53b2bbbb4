"""Turning a network of one rank, 2D or 3D, into one that takes images and volumes.

Layers with kernels have rules (`rules`). Everything else keeps its code: the other rank is folded
into the shape that it expects (`folding`). The result is held against the consistency law
(`checking`), and what was decided is written down.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossd.conversion import adapt
from crossd.conversion import depth_stride as depth_strides
from crossd.conversion.arguments import (
    check_choices,
    check_numbers,
    require_unasked,
)
from crossd.conversion.building import built, rank_of
from crossd.conversion.checking import examples, law, perturbed
from crossd.conversion.checking.answers import TOLERATED, CannotRun, Refused, Unsteady, difference
from crossd.conversion.checking.source import require_same
from crossd.conversion.decisions import Decisions
from crossd.conversion.folding.containers import mapped, tensors_in
from crossd.conversion.folding.modules import state_of
from crossd.conversion.folding.run import LayersMet
from crossd.conversion.folding.torch_private import BatchNormBase
from crossd.conversion.plain import to_2d
from crossd.conversion.report import account, sentences
from crossd.conversion.rules import Options
from crossd.conversion.ways import Wish, must_run, ways_of
from crossd.errors import InputError
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose


def convert(
    model: nn.Module,
    kernel_mode: str = "projection",
    lift: str | None = "center",
    *,
    example: object = None,
    check: bool = True,
    attention: str | None = None,
    depth_stride: int | Sequence[int] | str | None = None,
    depth_kernel: int | None = None,
    depth_padding: str | None = None,
    depth_position: int | None = None,
    spread: bool = True,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    batch_norm: str = "keep",
    volumes: Iterable[Tensor] = (),
    decided: Mapping[str, object] | None = None,
    **mode_options: object,
) -> nn.Module:
    """Turn a network into one whose 3D kernels serve images and volumes.

    A 2D network keeps its code and is given volumes as batches of slices; its convolutions become
    3D ones, and pools and norms look at all slices, attention where it is asked for. A 3D network
    keeps its code and its weights, names and shapes, and is given images as volumes one voxel deep.

    Args:
        model: Any 2D or 3D network. It is not changed.
        kernel_mode: ``"projection"``, ``"slice"``, ``"fourier"`` (the paper's) or
            ``"fourier-projection"``.
        lift: Where the kernels of a 2D network start: ``"center"`` and ``"inflate"`` keep what
            `model` says of images (in the axial view), ``"triplanar"`` does not; None draws new
            weights as the paper's implementation does (Kaiming normal, fan out). 3D networks
            keep their kernels.
        example: A batch that `model` takes, or a tuple of arguments; random ones if None.
        check: Hold a copy with weights moved at random against the consistency law, in both modes
            and all views. False decides nothing by running it: depth follows the plane, and code
            must take maps with channels last in memory (`reshape`, not `view`).
        attention: ``"slice"`` lets tokens of one slice attend to each other, ``"volume"`` those of
            all. None takes the first, which answered better on volumes after training on slices
            alone (`benchmarks/depth_choices.py`).
        depth_stride: Of what reduces the plane, in the order of resolution: one number for all,
            one for each stage (1 keeps the depth), ``"auto"`` (from `size` and `spacing`), or
            None: as the plane or, in code that cannot have that, 1.
        depth_kernel: Depth of kernels larger than one pixel (odd); None copies the plane's.
        depth_padding: What stands beside the first and last slice: ``"zeros"``, or
            ``"replicate"``, which keeps the law to the ends of finite volumes.
        depth_position: Places of an embedding of depth that is added to the answer of the first
            convolution, where attention sees volumes; it starts at zero. 0 for none.
        spread: Let layers that stride along depth start as means over slices, instead of looking at
            some of them only.
        size: Of the volumes (depth, height, width) [voxels], for ``depth_stride="auto"``.
        spacing: Of their voxels (z, y, x) [mm], for ``depth_stride="auto"``.
        in_channels: Another number of input channels, see `crossd.conversion.adapt.adapted`.
        num_classes: Another number of classes; the classifier is drawn anew.
        batch_norm: ``"keep"`` the running statistics of images, ``"reset"`` them, or
            ``"recalibrate"`` them on `volumes` (see `crossd.recalibrate`).
        volumes: Batches ``(N, C, D, H, W)`` without labels, for ``batch_norm="recalibrate"``.
        decided: What an earlier conversion of the same network decided, as its `recipe` holds it;
            then nothing is decided anew, and nothing checked.
        **mode_options: Of the kernel mode (`offset` for the fourier modes).

    Returns:
        A network of the same attributes that takes ``(N, C, H, W)`` and ``(N, C, D, H, W)``, its
        kernels laid out with channels last in memory; its `conversion` tells what was decided and
        what became of every parameter. In training on images, modes with views draw one for each
        forward pass unless `crossd.view` set it.

    Raises:
        InputError: "cannot convert ..." naming the module that breaks the law, or what does not
            run on volumes; "cannot run ..." when the network takes no such images; or for an
            unknown mode, lift or option.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        >>> net(torch.zeros(2, 1, 9, 9)).shape, net(torch.zeros(2, 1, 9, 9, 9)).shape
        (torch.Size([2, 4, 7, 7]), torch.Size([2, 4, 7, 7, 7]))
    """
    check_choices(model, kernel_mode, lift, attention, depth_padding, batch_norm, volumes)
    numbers = (depth_stride, depth_kernel, depth_position, size, spacing, in_channels, num_classes)
    check_numbers(*numbers)
    model, said = adapt.adapted(model, in_channels, num_classes)
    rank = rank_of(model)
    if rank == 3:
        asked = {"attention": attention, "depth_stride": depth_stride, "depth_kernel": depth_kernel}
        require_unasked(**asked, depth_position=depth_position)
    options = Options(kernel_mode, lift, mode_options, depth_kernel, spread=spread)
    wish = Wish(
        depth_strides.Wish(depth_stride, size, spacing), attention, depth_padding, depth_position
    )
    if decided is None:
        with warnings.catch_warnings():  # activation checkpointing wants gradients, the check none
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            net, choice, checks = _decide(model, rank, options, wish, example, check)
    else:
        choice, checks = Decisions.of_record(decided), []
        net = built(model, rank, dataclasses.replace(options, spread=choice.spread), choice)
    why = _weight_reason(rank, kernel_mode, lift)
    made: Any = net
    made.conversion = account(model, net, why, (*said, *checks))
    given = {
        **mode_options,
        "depth_stride": depth_stride,
        "depth_kernel": depth_kernel,
        "size": size,
        "spacing": spacing,
        "in_channels": in_channels,
        "num_classes": num_classes,
    }
    made.crossd_recipe = recipe("cross", kernel_mode, given, choice)
    if batch_norm == "recalibrate":
        adapt.recalibrate(net, volumes)
    elif batch_norm == "reset":
        for module in net.modules():
            if isinstance(module, BatchNormBase):
                module.reset_running_stats()
    return net


# Building it


def _decide(
    model: nn.Module, rank: int, options: Options, wish: Wish, example: object, check: bool
) -> tuple[nn.Module, Decisions, list[str]]:
    """Find a way for the network to take the other rank, and hold it against the law."""
    given = None
    if check or must_run(model, wish):
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            raise InputError(
                "cannot run a network whose weights are on the meta device: give it weights first "
                "(to_empty), or convert it with check=False"
            )
        given = examples.example_for(model, rank, example)
        given = examples.two_samples(model, given) if rank == 2 else given
    ways = list(ways_of(model, rank, options, wish, given))
    if not check:
        return built(model, rank, options, ways[0]), ways[0], []
    assert given is not None
    first: Refused | None = None
    random = torch.random.get_rng_state()
    for choice in ways:
        if choice.repeat > 1 and not isinstance(first, CannotRun):
            break  # one voxel is enough for the code, and what it answers there is no volume's
        torch.random.set_rng_state(random)  # new weights are those of the first way
        net = built(model, rank, options, choice)
        try:
            with examples.forked(net):
                found = law.examine(net, state_of(net).folding, given)
                if rank == 3 or options.lift in ("center", "inflate"):
                    rounded, exact = _require_same(model, net, rank, options, choice, given)
                    found.from_source = exact
                    if rounded > TOLERATED:
                        found.lines.append(
                            f"in float32 rounding alone changes its answers by {rounded:.1e}, as "
                            "it may in deep networks that were not trained"
                        )
                elif options.lift is not None:
                    pair = (tensors_in(examples.evaluated(one, given)) for one in (net, model))
                    found.from_source = difference(*pair)
                if rank == 2:
                    found.lines += _require_kernels_in_layers(net, given)
                    found.lines += _require_slices_in_place(model, options, choice, given)
        except Refused as error:
            first = first or error
            continue
        choice = dataclasses.replace(choice, views=found.views, mixes=found.mixes)
        choice = dataclasses.replace(choice, labels=found.labels)
        state_of(net).folding = choice.folding(rank, state_of(net).folding.has_views)
        _require_neighbours(model, net, found)
        return net, choice, sentences(net, rank, choice, found, first)
    assert first is not None
    kind, why = type(model), str(first)
    if rank == 2 and (fault := _fault_of_three(model, given)):
        why = (
            "its code fixes the size of the batch, and a volume is a batch of slices; with three "
            f"images {fault}"
        )
    raise InputError(f"cannot convert {kind.__module__}.{kind.__qualname__}: {why}")


def _require_same(
    model: nn.Module,
    net: nn.Module,
    rank: int,
    options: Options,
    choice: Decisions,
    given: examples.Given,
) -> tuple[float, float]:
    """Compare with the source; with weights that were moved where rounding would hide the code."""
    try:
        return require_same(model, net, given)
    except Unsteady:
        pass
    return law.with_weights_moved(
        model, lambda twin: require_same(twin, built(twin, rank, options, choice), given)
    )


def _require_slices_in_place(
    model: nn.Module, options: Options, choice: Decisions, given: examples.Given
) -> list[str]:
    """Refuse code by which lifted kernels answer a slice beside its place.

    Returns:
        Sentences for the report: one where that cannot be seen.
    """
    images = examples.maps_of(given, 2)
    answers = tensors_in(examples.evaluated(model, given))
    if not any(v.dim() == 4 and v.shape[2:] == images.shape[2:] for v in answers):
        return []
    lifted = dataclasses.replace(options, lift="center", kernel_mode="projection", mode_options={})
    try:
        law.with_weights_moved(
            model,
            lambda twin: law.require_slices_in_place(built(twin, 2, lifted, choice), given),
        )
    except (Unsteady, CannotRun) as error:
        return [f"whether slices are answered where they are cannot be seen: {error}"]
    return []


def _require_kernels_in_layers(net: nn.Module, given: examples.Given) -> list[str]:
    """Refuse code that reads a kernel outside of its layer, where nothing says what of it is meant.

    What it reads of a lifted kernel may be what it read of the 2D one, as its norm is, until
    weights move: then the network answers otherwise than the 2D one of the same layers.

    Returns:
        Sentences for the report: one where that cannot be seen.
    """

    def check(moved: nn.Module) -> None:
        perturbed.as_the_law_wants(moved, 0)
        require_same(to_2d(moved), moved, given)

    try:
        law.with_weights_moved(net, check)
    except Unsteady as error:
        return [f"whether code reads kernels outside of their layers cannot be seen: {error}"]
    except Refused as error:
        raise Refused(f"with every weight moved at random {error}") from error
    return []


def _fault_of_three(model: nn.Module, given: examples.Given) -> str:
    """Say what is wrong with the answer of a network, which takes two samples, on three."""

    def three(value: Tensor) -> Tensor:
        return torch.cat((value, value[:1])) if value.dim() and len(value) == 2 else value

    try:
        sizes = [
            [v.shape[:1] for v in tensors_in(examples.evaluated(model, one))]
            for one in (given, mapped(three, given))
        ]
    except Exception as error:  # whatever a network of others may raise
        return f"it fails ({examples.one_line(error)})"
    return "it answers as for two" if sizes[0] == sizes[1] and (2,) in sizes[0] else ""


def _require_neighbours(model: nn.Module, net: nn.Module, found: law.Findings) -> None:
    """Refuse a network in which nothing could see depth."""
    known = any(isinstance(m, CrossDConv | CrossDConvTranspose) for m in net.modules())
    if not known and dataclasses.replace(found.seen, foreign=set()) == LayersMet():
        kind = type(model)
        raise InputError(
            f"cannot convert {kind.__module__}.{kind.__qualname__}: it has no convolution and no "
            "attention, so that nothing in it could see depth"
        )


# Reports and recipes


def recipe(form: str, kernel_mode: str, given: dict[str, Any], choice: Decisions) -> Any:
    """Return what makes a network of this form of its source, for its weights file."""
    options = {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if value is not None
    }
    return {
        "form": form,
        "kernel_mode": kernel_mode,
        "mode_options": options,
        "decided": dataclasses.asdict(choice),
    }


def _weight_reason(rank: int, kernel_mode: str, lift: str | None) -> str:
    if rank == 3:
        return f"{kernel_mode}, kept"
    return f"{kernel_mode}, " + ("drawn anew" if lift is None else f"lifted by {lift!r}")
