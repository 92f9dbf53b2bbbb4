"""Turning a network of one rank, 2D or 3D, into one that takes images and volumes.

Layers with kernels have rules (`crossd.conversion.rules`). Everything else keeps its code: the
other rank is folded into the shape that it expects (`crossd.conversion.volumes`, `planes`). The
result is held against the consistency law (`crossd.conversion.verify`), and what was decided is
written down.
"""

import copy
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from crossd.conversion import adapt, attention, planes, verify, volumes
from crossd.conversion import depth_stride as depth_strides
from crossd.conversion.containers import leaves, mapped
from crossd.conversion.report import account
from crossd.conversion.rules import RULES, Options, find_rule
from crossd.conversion.state import Folded, Folding, Seen, State, fold_module
from crossd.conversion.torch_private import BatchNormBase, ConvBase
from crossd.errors import InputError, require_kinds
from crossd.nn import conv as layers
from crossd.nn.conv import CrossDConv, CrossDConvTranspose
from crossd.nn.kernel_modes import KERNEL_MODES, VIEWS
from crossd.nn.layers import channels_last

assert planes and volumes  # their imports tell the state how code of each rank is watched

LIFTS = ("center", "inflate", "triplanar")
BATCH_NORM = ("keep", "reset", "recalibrate")
DEPTH_PADDING = ("zeros", "replicate")

POSITIONS = 16
"""Places along depth of an embedding of depth, between which it is interpolated."""


@dataclass(frozen=True)
class Decisions:
    """What a conversion decided; it goes into weights files, where loading finds it.

    Attributes:
        attention: ``"volume"`` or ``"slice"``.
        depth_padding: ``"zeros"`` or ``"replicate"``.
        stages: (reduction of the plane, depth stride) of each stage; none where depth follows.
        layers: Depth strides of single convolutions, by their paths.
        views: In which the law holds.
        mixes: Whether images of one batch may have different views.
        repeat: How often images are repeated to make the volumes that a 3D network needs.
        labels: Whether answers of a 3D network with four axes are maps without channels.
        features: Axes of what `forward_features` gives on images.
        channels_last: Whether channels are the last of these axes.
        position: Path of the convolution that an embedding of depth is added to; may be empty.
        positions: Places of that embedding.
        spread: Whether strided layers spread their start over depth.
        laid_last: Whether kernels are laid out with channels last in memory.
        plain: Whether code with layers of the other rank does what the folded network does; None
            until `crossd.to_2d` or `crossd.to_3d` found out.
    """

    attention: str = "slice"
    depth_padding: str = "zeros"
    stages: tuple[tuple[int, int], ...] = ()
    layers: dict[str, int] = dataclasses.field(default_factory=dict)
    views: tuple[int, ...] = (0, 1, 2)
    mixes: bool = True
    repeat: int = 1
    labels: bool = True
    features: int = 4
    channels_last: bool = False
    position: str = ""
    positions: int = 0
    spread: bool = True
    laid_last: bool = True
    plain: bool | None = None

    def folding(self, rank: int, has_views: bool) -> Folding:
        """Give what the modules of the network need to know."""
        own = {field.name for field in dataclasses.fields(self)}
        shared = own & {field.name for field in dataclasses.fields(Folding)}
        known = {name: getattr(self, name) for name in shared}
        return Folding(rank=rank, has_views=has_views, **known)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Decisions":
        """Read what `dataclasses.asdict` and JSON made of it.

        Raises:
            InputError: "what was decided: ..." where the record was damaged.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in record.items() if name in names}
        for name in ("stages", "views"):
            if isinstance(known.get(name), list | tuple):
                pairs = [tuple(v) if isinstance(v, list) else v for v in known[name]]
                known[name] = tuple(pairs)
        made = cls(**known)
        require_kinds(made, "what was decided")
        stages = all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(v, int) for v in pair)
            for pair in made.stages
        )
        for name, right in (
            ("attention", made.attention in attention.ATTENTION),
            ("depth_padding", made.depth_padding in DEPTH_PADDING),
            ("stages", stages),
            ("views", bool(made.views) and {*made.views} <= {*range(len(VIEWS))}),
            ("repeat", made.repeat > 0),
            ("features", made.features > 1),
            ("positions", 0 <= made.positions < 2**16),
        ):
            if not right:
                raise InputError(f"what was decided: {name} (={getattr(made, name)!r}) is damaged")
        return made


def convert(
    model: nn.Module,
    kernel_mode: str = "projection",
    lift: str | None = "center",
    *,
    example: Any = None,
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
    decided: Mapping[str, Any] | None = None,
    **mode_options: Any,
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
    _check_choices(model, kernel_mode, lift, attention, depth_padding, batch_norm, volumes)
    numbers = (depth_stride, depth_kernel, depth_position, size, spacing, in_channels, num_classes)
    _check_numbers(*numbers)
    model, said = adapt.adapted(model, in_channels, num_classes)
    rank = rank_of(model)
    if rank == 3:
        asked = {"attention": attention, "depth_stride": depth_stride, "depth_kernel": depth_kernel}
        _require_unasked(**asked, depth_position=depth_position)
    options = Options(kernel_mode, lift, mode_options, depth_kernel, spread=spread)
    wish = _Wish(
        depth_strides.Wish(depth_stride, size, spacing), attention, depth_padding, depth_position
    )
    if decided is None:
        with warnings.catch_warnings():  # activation checkpointing wants gradients, the check none
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            net, choice, checks = _decide(model, rank, options, wish, example, check)
    else:
        choice, checks = Decisions.of_record(decided), []
        net = _built(model, rank, dataclasses.replace(options, spread=choice.spread), choice)
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
    made.crossd_recipe = _recipe("cross", kernel_mode, given, choice)
    if batch_norm == "recalibrate":
        adapt.recalibrate(net, volumes)
    elif batch_norm == "reset":
        for module in net.modules():
            if isinstance(module, BatchNormBase):
                module.reset_running_stats()
    return net


def _check_choices(
    model: Any,
    kernel_mode: str,
    lift: str | None,
    attention_: str | None,
    depth_padding: str | None,
    batch_norm: str,
    volumes_: Any,
) -> None:
    """Refuse unknown names."""
    for name, value, known, none in (
        ("kernel_mode", kernel_mode, tuple(KERNEL_MODES), False),
        ("lift", lift, LIFTS, True),
        ("attention", attention_, attention.ATTENTION, True),
        ("depth_padding", depth_padding, DEPTH_PADDING, True),
        ("batch_norm", batch_norm, BATCH_NORM, False),
    ):
        if value not in known and not (none and value is None):
            more = " or None" if none else ""
            raise InputError(f"{name} (={value!r}) must be one of {', '.join(known)}{more}")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    if batch_norm != "recalibrate" and volumes_ != ():
        raise InputError(f"volumes are for batch_norm='recalibrate', not for {batch_norm!r}")


def _check_numbers(
    depth_stride: Any,
    depth_kernel: Any,
    positions: Any,
    size: Any,
    spacing: Any,
    channels: Any,
    classes: Any,
) -> None:
    """Refuse options that are no numbers, or would have no effect."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    for name, value, least in (
        ("in_channels", channels, 1),
        ("num_classes", classes, 1),
        ("depth_position", positions, 0),
    ):
        if value is not None and not (whole(value) and value >= least):
            raise InputError(f"{name} (={value!r}) must be a whole number of at least {least}")
    for name, value in (("size", size), ("spacing", spacing)):
        if value is not None and not (
            isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        ):
            raise InputError(f"{name} (={value!r}) must be three numbers (z, y, x)")
    if depth_kernel is not None and not (
        whole(depth_kernel) and depth_kernel > 0 and depth_kernel % 2
    ):
        raise InputError(f"depth_kernel (={depth_kernel!r}) must be odd and positive")
    strides = depth_stride if isinstance(depth_stride, list | tuple) else (depth_stride,)
    if depth_stride is not None and depth_stride != "auto" and not all(map(whole, strides)):
        raise InputError(
            f"depth_stride (={depth_stride!r}) must be one positive whole number, one a stage, or "
            "'auto'"
        )
    if depth_stride is None and not (size is None and spacing is None):
        raise InputError("size and spacing are for depth_stride='auto', which was not asked for")


def _require_unasked(**options: Any) -> None:
    """Refuse options that have no effect on 3D networks, which keep their code and kernels."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} (={value!r}) is for 2D networks; this one is a 3D network")


# Which network it is


def rank_of(net: nn.Module) -> int:
    """Tell 2D networks from 3D ones by their convolutions, or their other layers of torch.nn.

    Raises:
        InputError: "cannot convert ..." for a network with layers of both ranks, or one that takes
            both ranks already.
    """
    found: dict[str, str] = {}
    others: dict[str, str] = {}
    for path, module in net.named_modules():
        _require_whole(module, path)
        if isinstance(module, Folded) or hasattr(module, "to_3d"):
            raise InputError(
                f"cannot convert {verify.named(module, path)}: it takes images and volumes already"
            )
        for kind in type(module).__mro__:
            rank = kind.__name__[-2:]
            if kind.__module__.startswith("torch.nn.modules") and rank in ("2d", "3d"):
                kinds = found if issubclass(kind, ConvBase) else others
                kinds.setdefault(rank, verify.named(module, path))
                break
    found = found or others
    if len(found) > 1:
        raise InputError(
            f"cannot convert a network of both ranks: {found['2d']} is for images, {found['3d']} "
            "for volumes; give a network of 2D layers, or one of 3D layers"
        )
    return 3 if "3d" in found else 2


# Building it


@dataclass(frozen=True)
class _Wish:
    """What the user wants; None leaves it to what is found."""

    depth: depth_strides.Wish
    attention: str | None
    depth_padding: str | None
    depth_position: int | None


def _decide(
    model: nn.Module, rank: int, options: Options, wish: _Wish, example: Any, check: bool
) -> tuple[nn.Module, Decisions, list[str]]:
    """Find a way for the network to take the other rank, and hold it against the law."""
    given = None
    if check or _must_run(model, wish):
        given = verify.example_for(model, rank, example)
    ways = list(_ways(model, rank, options, wish, given))
    if not check:
        return _built(model, rank, options, ways[0]), ways[0], []
    assert given is not None
    first: verify.Refused | None = None
    random = torch.random.get_rng_state()
    for choice in ways:
        if choice.repeat > 1 and not isinstance(first, verify.CannotRun):
            break  # one voxel is enough for the code, and what it answers there is no volume's
        torch.random.set_rng_state(random)  # new weights are those of the first way
        net: Any = _built(model, rank, options, choice)
        try:
            with verify.forked(net):
                found = verify.examine(net, net.crossd_state.folding, given)
                if rank == 3 or options.lift in ("center", "inflate"):
                    found.from_source = verify.require_same(model, net, given)
        except verify.Refused as error:
            first = first or error
            continue
        choice = dataclasses.replace(choice, views=found.views, mixes=found.mixes)
        choice = dataclasses.replace(choice, labels=found.labels)
        net.crossd_state.folding = choice.folding(rank, net.crossd_state.folding.has_views)
        _require_neighbours(model, net, found)
        return net, choice, _sentences(model, net, rank, choice, found, given, options, first)
    assert first is not None
    kind, why = type(model), str(first)
    if rank == 2 and (fault := _fault_of_three(model, given)):
        why = (
            "its code fixes the size of the batch, and a volume is a batch of slices; with three "
            f"images {fault}"
        )
    raise InputError(f"cannot convert {kind.__module__}.{kind.__qualname__}: {why}")


def _fault_of_three(model: nn.Module, given: Any) -> str:
    """Say what is wrong with the answer of a network, which takes two samples, on three."""

    def three(value: Any) -> Any:
        samples = isinstance(value, Tensor) and value.dim() and len(value) == 2
        return torch.cat((value, value[:1])) if samples else value

    try:
        sizes = [
            [v.shape[:1] for v in leaves(_runner(model, one)()) if isinstance(v, Tensor)]
            for one in (given, mapped(three, given))
        ]
    except Exception as error:  # whatever a network of others may raise
        return f"it fails ({verify.one_line(error)})"
    return "it answers as for two" if sizes[0] == sizes[1] and (2,) in sizes[0] else ""


def _must_run(model: nn.Module, wish: _Wish) -> bool:
    """Tell whether something that is asked for shows only when the network runs."""
    stride = wish.depth.stride
    stages = stride is not None and not isinstance(stride, int)
    return stages or attention.may_attend(model) or hasattr(model, "forward_head")


def _ways(
    model: nn.Module, rank: int, options: Options, wish: _Wish, given: Any
) -> Iterable[Decisions]:
    """List ways of taking the other rank, the wished or likeliest first."""
    if rank == 3:
        padding, last = wish.depth_padding or "zeros", _takes_channels_last(model, given)
        yield Decisions(depth_padding=padding, laid_last=last)
        if given is not None:
            depth = verify.maps_of(given, 3).shape[2]
            yield Decisions(depth_padding=padding, laid_last=last, repeat=depth)
        return
    run = None if given is None else _runner(model, given)
    position, attends = attention.first_convolution(model, run)
    features = _features(model, given)
    features["laid_last"] = _takes_channels_last(model, given)
    wishes = [wish.depth]
    if wish.depth.stride is None:
        wishes.append(depth_strides.Wish(1))
    kind = wish.attention or "slice"
    for one in wishes:
        strides = depth_strides.decide(one, run or (lambda: None), model)
        count = POSITIONS if wish.depth_position is None else wish.depth_position
        embeds = attends and kind == "volume" and count > 0 and position
        yield Decisions(
            attention=kind,
            depth_padding=wish.depth_padding or "zeros",
            stages=strides.stages,
            layers=strides.layers,
            position=position if embeds else "",
            positions=count if embeds else 0,
            spread=options.spread,
            **features,
        )


def _runner(model: nn.Module, given: Any) -> Callable[[], Any]:
    def run() -> Any:
        with verify.left_as_it_was(model), torch.no_grad():
            return model.eval()(*given)

    return run


def _takes_channels_last(model: nn.Module, given: Any) -> bool:
    """Tell whether code runs on maps with channels last in memory; some makes views of others."""
    if given is None:
        return True
    laid = channels_last(copied(model))
    with verify.left_as_it_was(laid), torch.no_grad(), verify.Still():
        for training in (False, True):
            try:
                laid.train(training)(*given)
            except Exception:  # whatever code of others may raise
                return not _runs(model, given, training)
    return True


def _runs(model: nn.Module, given: Any, training: bool) -> bool:
    try:
        with verify.left_as_it_was(model), torch.no_grad(), verify.Still():
            model.train(training)(*given)
    except Exception:  # of the network itself, which is not for its layout to mend
        return False
    return True


def _features(model: Any, given: Any) -> dict[str, Any]:
    """See what features look like, in networks that give them and take them back (timm's)."""
    last = getattr(model, "output_fmt", None) == "NHWC"
    if given is None or not all(hasattr(model, n) for n in ("forward_features", "forward_head")):
        return {"channels_last": last}
    with verify.left_as_it_was(model), torch.no_grad():
        features = model.eval().forward_features(*given)
    axes = features.dim() if isinstance(features, Tensor) else 4
    return {"channels_last": last, "features": axes}


def _built(model: nn.Module, rank: int, options: Options, choice: Decisions) -> nn.Module:
    """Copy a network, give its layers with kernels both ranks, and let its code be folded."""
    options = dataclasses.replace(
        options,
        depth_strides=choice.layers,
        depth_stride=choice.stages[0][1] if len(choice.stages) == 1 and not choice.layers else None,
    )
    made: set[nn.Module] = set()

    def change(module: nn.Module, path: str) -> nn.Module | None:
        _require_plain(module, path)
        rule = find_rule(module)
        if rule is None:
            return None
        _require_no_hooks(module, path)
        try:
            new = rule(module, dataclasses.replace(options, path=path))
        except AttributeError as error:
            raise InputError(
                f"cannot convert {verify.named(module, path)}: its rule does not know all of it "
                f"({error}); register one of its own with crossd.rule"
            ) from error
        if not isinstance(new, nn.Module):
            raise InputError(
                f"cannot convert {verify.named(module, path)}: its rule returned "
                f"{type(new).__name__}, expected a module (the layer itself, to keep it)"
            )
        if new is not module:
            _require_known(module, new, path)
            made.add(module)  # which becomes the new one
        return new

    net = turned(copied(model), change)
    require_ties(model, net)
    if choice.laid_last:
        for layer in made:
            channels_last(layer)
    if choice.position:
        try:
            layer = net.get_submodule(choice.position)
        except AttributeError as error:
            raise InputError(
                f"the network has no layer {choice.position!r}: another one?"
            ) from error
        if isinstance(layer, CrossDConv):
            shape = (layer.out_channels, choice.positions)
            layer.depth_position = nn.Parameter(layer.weight.new_zeros(shape))
    if rank == 2 and choice.attention == "volume":
        attention.use_fused_attention(net)
    fold(net, made, State(choice.folding(rank, layers.has_views(net))))
    return net


def fold(net: nn.Module, made: Iterable[nn.Module], state: State) -> None:
    """Give the modules of a network the classes that ask its state, in place.

    Args:
        net: The network.
        made: Its layers that take both ranks by themselves.
        state: What all of them share.
    """
    own = set(made)
    inside = {id(part) for layer in own for part in layer.modules() if part is not layer}
    for module in net.modules():
        stays = module not in own and module is not net and _is_pointwise(module)
        if id(module) in inside or stays:
            continue
        fold_module(module, module in own, state)


AROUND = (
    *(
        "activation",
        "batchnorm",
        "container",
        "conv",
        "dropout",
        "fold",
        "instancenorm",
        "normalization",
    ),
    *("padding", "pixelshuffle", "pooling", "rnn", "transformer", "upsampling"),
)
"""Files of torch.nn whose layers may look beyond a pixel, hold others, or ask for a rank."""

ALONE = ("Linear", "Dropout", "LayerNorm", "RMSNorm", "Identity")


def _is_pointwise(module: nn.Module) -> bool:
    """Tell layers of torch.nn that look at single pixels: they keep their class."""
    kind = type(module)
    place, _, file = kind.__module__.rpartition(".")
    if place != "torch.nn.modules" or list(module.children()):
        return False
    attends = kind.__name__ == "MultiheadAttention"
    return file not in AROUND or kind.__name__ in ALONE or (file == "activation" and not attends)


def _require_whole(module: nn.Module, path: str) -> None:
    """Refuse modules whose code a class does not tell, or which a copy would not copy."""
    name = verify.named(module, path)
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise InputError(f"cannot convert {name}: a graph; give the network it was made of")
    if any(map(nn.parameter.is_lazy, module.parameters(recurse=False))):
        raise InputError(f"cannot convert {name}: call the network once, so that it has its sizes")
    if hasattr(module, "_orig_mod"):
        raise InputError(f"cannot convert {name}: it is compiled; compile what convert gives")
    forward: Any = vars(module).get("forward")
    chosen = path and getattr(forward, "__self__", None) is module  # of its own, as in FasterNet
    if forward is not None and (find_rule(module) is not None or not chosen):
        raise InputError(
            f"cannot convert {name}: its forward was replaced on this object; write a class for it"
        )
    for attribute, value in vars(module).items():
        held = inspect.getclosurevars(value).nonlocals if inspect.isfunction(value) else {}
        if any(isinstance(one, nn.Module) for one in held.values()):
            raise InputError(
                f"cannot convert {name}: the function {attribute!r} that it keeps holds modules, "
                "which a copy of the network would share with this one; write a method"
            )


def _require_plain(module: nn.Module, path: str) -> None:
    """Refuse convolutions whose weight is computed anew for each call."""
    if is_parametrized(module) and any(base in RULES for base in type(module).__mro__):
        raise InputError(
            f"cannot convert {verify.named(module, path)}: its parameters are parametrized (weight "
            "norm?); call torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _require_known(module: nn.Module, new: nn.Module, path: str) -> None:
    """Refuse a subclass with buffers or parts that the rule of its base knows nothing of."""
    kind = type(module)
    lost = sorted({*module._buffers, *module._modules} - {*new._buffers, *new._modules})
    if lost and kind not in RULES and f"{kind.__module__}.{kind.__qualname__}" not in RULES:
        raise InputError(
            f"cannot convert {verify.named(module, path)}: the rule of its base would lose "
            f"{', '.join(lost)}; register one of its own with crossd.rule"
        )


def _require_no_hooks(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"cannot convert {verify.named(module, path)}: it has forward hooks (weight or "
            "spectral norm?) that would be lost; remove them first"
        )


def _require_neighbours(model: nn.Module, net: nn.Module, found: verify.Findings) -> None:
    """Refuse a network in which nothing could see depth."""
    known = any(isinstance(m, CrossDConv | CrossDConvTranspose) for m in net.modules())
    if not known and found.seen == Seen():
        kind = type(model)
        raise InputError(
            f"cannot convert {kind.__module__}.{kind.__qualname__}: it has no convolution and no "
            "attention, so that nothing in it could see depth"
        )


def _sentences(
    model: nn.Module,
    net: Any,
    rank: int,
    choice: Decisions,
    found: verify.Findings,
    given: Any,
    options: Options,
    refused: Exception | None,
) -> list[str]:
    """Say what was decided and found."""
    lines = []
    seen = found.seen
    if rank == 2:
        count = seen.convolutions + seen.flat_convolutions
        lines.append(f"{seen.convolutions} of {count} convolutions see depth")
        count = seen.attentions + seen.flat_attentions
        if count:
            rest = "; the others work within slices" if seen.flat_attentions else ""
            lines.append(
                f"{seen.attentions} of {count} attentions see the tokens of all slices{rest}"
            )
        if choice.stages:
            strides = ", ".join(str(stride) for _, stride in choice.stages)
            asked = "" if refused is None else f", because as the plane does {refused}"
            lines.append(f"depth is strided by {strides}{asked}")
        else:
            lines.append("depth follows the plane")
        if choice.position:
            lines.append(f"an embedding of depth is added to {choice.position!r}, zero at first")
        if found.from_source is not None:
            lines.append(f"on images it differs from the 2D network by {found.from_source:.1e}")
    elif choice.repeat > 1:
        lines.append(
            f"images are repeated to {choice.repeat} slices, because the code does not run on one "
            f"({refused}): they cost what volumes cost"
        )
    names = ", ".join(VIEWS[axis] for axis in found.views)
    what = "view" if len(found.views) == 1 else "views"
    lines.append(
        f"on volumes that repeat an image along depth it differs from its answer on the image by "
        f"{found.difference:.1e} at most, with every weight moved at random ({what}: {names})"
    )
    if layers.has_views(net):
        lines += [f"it has no {VIEWS[axis]} view: {why}" for axis, why in found.lost.items()]
    ups = [m for m in net.modules() if isinstance(m, CrossDConvTranspose) and max(m.stride) > 1]
    if ups:
        lines.append(f"{len(ups)} strided transposed convolutions do so on average over depth only")
    return [*lines, *dict.fromkeys(found.lines)]


# Copying and changing


def turned(model: nn.Module, change: Callable[[nn.Module, str], nn.Module | None]) -> nn.Module:
    """Let modules become what `change` gives, in place; shared ones once.

    They stay the same objects, so that lists and methods that hold them hold what they became.
    Where `change` gives None or the module itself, the module's parts are changed.
    """
    done: set[nn.Module] = set()

    def visit(module: nn.Module, path: str) -> None:
        if module in done:
            return
        done.add(module)
        try:
            new = change(module, path)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"cannot convert {verify.named(module, path)}: {error}") from error
        if new is None or new is module:
            for name, child in list(module.named_children()):
                visit(child, f"{path}.{name}" if path else name)
        else:
            module.__class__ = new.__class__
            own = {k: v for k, v in vars(module).items() if not k.startswith("crossd_")}
            kept = {k: v for k, v in own.items() if not isinstance(v, nn.Module)}
            module.__dict__ = {**kept, **vars(new)}  # what else it keeps, others may read

    visit(model, "")
    return model


def require_ties(source: nn.Module, result: nn.Module) -> None:
    """Refuse what would quietly untie two layers that have one parameter between them."""
    before = dict(source.named_parameters(remove_duplicate=False))
    after = dict(result.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name in (name for name in before if name in after):
        other = first.setdefault(id(before[name]), name)
        if after[name] is not after[other]:
            raise InputError(
                f"cannot convert: {other!r} and {name!r} are one parameter in two layers, which "
                "would become two; use one layer twice, or give each its own"
            )


def copied(model: nn.Module) -> nn.Module:
    """Copy a network, also one that keeps activations of its last forward pass (DynUNet does)."""
    values = leaves([list(vars(module).values()) for module in model.modules()])
    activations = [v for v in values if isinstance(v, Tensor) and not v.is_leaf]
    try:
        return copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in activations})
    except (TypeError, ValueError, RecursionError) as error:  # a lock, an open file
        kind = type(model)
        raise InputError(
            f"cannot copy {kind.__module__}.{kind.__qualname__}: {verify.one_line(error)}"
        ) from error


def _foldings(net: nn.Module) -> list[Folding]:
    """List how the converted networks fold that a module is or holds."""
    states = {id(s): s for s in (getattr(m, "crossd_state", None) for m in net.modules()) if s}
    return [state.folding for state in states.values()]


def mixes_views(net: nn.Module) -> bool:
    """Tell whether images of one batch may differ in view."""
    return layers.mixes_views(net) and all(folding.mixes for folding in _foldings(net))


def views_of(net: nn.Module) -> tuple[int, ...]:
    """List the views in which a network keeps the law, as the axes that they drop."""
    common = set(range(len(VIEWS))).intersection(*(folding.views for folding in _foldings(net)))
    return tuple(sorted(common))


def seen_in(net: nn.Module, axes: Sequence[int]) -> list[int]:
    """Give the views in which a network sees images: their own where it keeps the law, or axial."""
    lawful = views_of(net)
    return [axis if axis in lawful else 0 for axis in axes]


def ranks_of(net: nn.Module) -> tuple[int, ...]:
    """List what a network takes: images (2), volumes (3), or both; by its layers."""
    if foldings := _foldings(net):
        return (2, 3) if not foldings[0].only else (foldings[0].only,)
    if any(hasattr(module, "to_3d") for module in net.modules()):
        return 2, 3
    kinds = {kind.__name__ for module in net.modules() for kind in type(module).__mro__}
    found = tuple(rank for rank in (2, 3) if f"Conv{rank}d" in kinds)
    return found if len(found) == 1 else (2, 3)


def acs_network(model: nn.Module) -> nn.Module:
    """Turn a 2D network into one with ACS convolutions; see `crossd.acs`."""
    rank_of(model)
    choice = Decisions(spread=False)
    net: Any = _built(model, 2, Options("acs"), choice)
    net.crossd_recipe = _recipe("acs", "projection", {}, choice)
    net.conversion = account(model, net, "kept in 2D")
    return net


# Reports and recipes


def _recipe(form: str, kernel_mode: str, given: dict[str, Any], choice: Decisions) -> Any:
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


def known_view(name: str) -> int:
    """Return the axis that a view drops.

    Raises:
        InputError: "view ..." for an unknown name.
    """
    if name not in VIEWS:
        raise InputError(f"view (={name!r}) must be one of {', '.join(VIEWS)}")
    return VIEWS.index(name)
