"""Networks by name, to be converted: small ones of ours, timm's, MONAI's and torchvision's."""

import ast
import difflib
import functools
import importlib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from crossd.conversion.adapt import adapted
from crossd.conversion.building import rank_of
from crossd.conversion.checking.examples import evaluated, example_for, maps_of, one_line
from crossd.errors import InputError
from crossd.tasks import TASKS, task_of

Arguments = dict[str, object]
"""What networks are made with, by name."""

DEFAULTS = {
    name: "segresnet-small" if task.masks else "resnet-small" for name, task in TASKS.items()
}
"""The model of each task when none is named: small enough for two cores and 28 voxels a side."""


def build(name: str, task: str, in_channels: int, num_classes: int) -> nn.Module:
    """Build a network with new weights: a 2D one, or a 3D one of MONAI or torchvision.

    Args:
        name: ``"resnet-small"``, any timm classifier, ``"segresnet-small"``, one of MONAI's 2D
            ``"segresnet"``, ``"basicunet"``, ``"unet"`` and ``"dynunet"``; or a library and what it
            calls the network: ``"monai:SegResNet"``, ``"torchvision:r3d_18"``. Arguments stand in
            brackets: ``"monai:UNet(channels=(16, 32), strides=(2,), norm='batch')"``,
            ``"vit_tiny_patch16_224(img_size=32, patch_size=4)"``. MONAI's networks are 3D unless
            ``spatial_dims=2`` is given. ``"hf-hub:OWNER/NAME"`` and ``"local-dir:FOLDER"`` are
            networks of timm whose configuration lies there. Networks of nnU-Net are called
            ``"nnunet:"`` and what its plans call them, with their arguments.
        task: One of `crossd.tasks.TASKS`.
        in_channels: Channels of the images and volumes.
        num_classes: Number of classes; for segmentation with the background.

    Returns:
        A network of one rank to logits ``(N, classes)`` or ``(N, classes, ...)`` of maps.

    Raises:
        InputError: "no model called ...", with the nearest names, or what its arguments lack.

    Example:
        >>> net = build("resnet-small", "classification", 1, 11)
        >>> sum(p.numel() for p in net.parameters())
        173939
    """
    library, own, options = _parsed(name)
    if library is not None:
        return library(own, options, in_channels, num_classes)
    masks = task_of(task).masks
    ours = _UNETS if masks else ("resnet-small",)
    if own in ours and options:
        raise InputError(f"{own} takes no arguments, got {name!r}")
    if masks:
        if own not in _UNETS:
            raise _unknown(own, sorted(_UNETS), " for segmentation")
        kind, known = _UNETS[own]
        return _of_monai(kind, {"spatial_dims": 2, **known}, in_channels, num_classes)
    if own in ours:
        return small_resnet(in_channels, num_classes)
    return _of_timm(own, options, in_channels, num_classes)


def _parsed(name: str) -> tuple[Any, str, Arguments]:
    """Read ``LIBRARY:NAME(ARGUMENT=VALUE, ...)``, of which the name alone must be there."""
    parts = re.fullmatch(r"(?:([\w-]+):)?([\w./@~-]+)(\(.*\))?", name.strip())
    library = _LIBRARIES.get(parts[1]) if parts else None
    if parts is None or (parts[1] and library is None):
        raise InputError(
            f"no model called {name!r}: give NAME or {' or '.join(f'{a}:NAME' for a in _LIBRARIES)}"
            ", with arguments in brackets, such as monai:UNet(channels=(16, 32), strides=(2,))"
        )
    try:
        call: Any = ast.parse(f"f{parts[3] or '()'}", mode="eval").body
        options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        if call.args or None in options:
            raise ValueError("arguments must be named")
    except (ValueError, SyntaxError) as error:
        raise InputError(
            f"the arguments of {name!r} cannot be read ({error}): write NAME=VALUE, with numbers, "
            "strings in quotes, tuples and lists"
        ) from error
    return library, parts[2] if parts[1] not in ELSEWHERE else f"{parts[1]}:{parts[2]}", options


ELSEWHERE = ("hf-hub", "local-dir")
"""Where timm finds networks besides its own, before a colon."""


def named_by_timm(name: str) -> tuple[str, Arguments]:
    """Read the name of one of timm's networks, and its arguments in brackets.

    Args:
        name: As `build` takes it: ``"resnet18"``, ``"timm:resnet18"``, ``"hf-hub:OWNER/NAME"``.

    Returns:
        What `timm.create_model` calls it, and the arguments.

    Raises:
        InputError: "no model called ...", with the nearest names.

    Example:
        >>> named_by_timm("vit_tiny_patch16_224(depth=2)")
        ('vit_tiny_patch16_224', {'depth': 2})
    """
    import timm

    library, own, options = _parsed(name)
    if library not in (None, _of_timm):
        raise InputError(f"{name} is no network of timm's")
    if own.partition(":")[0] not in ELSEWHERE and not timm.is_model(own):
        raise _unknown(own, timm.list_models())
    return own, options


def with_arguments(name: str, options: Arguments) -> str:
    """Write the name of a model with its arguments in brackets.

    Example:
        >>> with_arguments("monai:UNet", {"channels": (16, 32), "norm": "batch"})
        "monai:UNet(channels=(16, 32), norm='batch')"
    """
    inner = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{name}({inner})" if inner else name


def options_of(name: str) -> Arguments:
    """Read the arguments in brackets of a model.

    Example:
        >>> options_of("monai:UNet(channels=(16, 32), strides=(2,))")
        {'channels': (16, 32), 'strides': (2,)}
    """
    options: Arguments = _parsed(name)[2]
    return options


def multiple_of(name: str) -> int:
    """Say what the sides of images must be multiples of, where a model's name tells; else 0.

    Example:
        >>> multiple_of("nnunet:a.b.PlainConvUNet(strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]])")
        4
        >>> multiple_of("nnunet:a.b.PlainConvUNet(strides=[1, 2, 2])"), multiple_of("resnet18")
        (4, 0)
    """
    if not name.startswith("nnunet:"):
        return 0
    strides: Any = options_of(name).get("strides", ())
    by_axis = ((one,) * 3 if isinstance(one, int) else one for one in strides)
    steps = [math.prod(axis) for axis in zip(*by_axis, strict=True)]
    return math.lcm(*steps) if steps else 0


def _of_timm(name: str, options: Arguments, in_channels: int, num_classes: int) -> nn.Module:
    import timm

    if name.partition(":")[0] not in ELSEWHERE and not timm.is_model(name):
        raise _unknown(name, ["resnet-small", *timm.list_models()], " for classification")
    given = {"in_chans": in_channels, "num_classes": num_classes, **options}
    return _called(name, functools.partial(timm.create_model, name), given)


def _of_monai(name: str, options: Arguments, in_channels: int, num_classes: int) -> nn.Module:
    from monai.networks import nets

    known = {n: v for n, v in vars(nets).items() if callable(v) and not n.startswith("_")}
    if name not in known:
        raise _unknown(f"monai:{name}", [f"monai:{own}" for own in known])
    make = known[name]
    own = _arguments(make)
    given: Arguments = {}
    for value, names in (
        (3, ("spatial_dims", "dimensions")),
        (in_channels, ("in_channels", "n_input_channels", "in_chans")),
        (num_classes, ("out_channels", "num_classes", "n_classes")),
    ):
        given |= {argument: value for argument in names if argument in own}
    return _called(f"monai:{name}", make, {**given, **_MONAI.get(make.__name__, {}), **options})


_MONAI: dict[str, Arguments] = {
    "UNet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "num_res_units": 2},
    "AttentionUnet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
    "DynUNet": {
        "kernel_size": (3, 3, 3, 3), "strides": (1, 2, 2, 2), "upsample_kernel_size": (2, 2, 2)
    },
    "UNETR": {"img_size": (96, 96, 96)},
}  # fmt: skip
"""Arguments that MONAI's networks need and that have no default there."""


def _arguments(make: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """List what a class or function of MONAI takes; where it passes words on, its class does."""
    signature = inspect.signature(make, eval_str=True)
    own = dict(signature.parameters)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        returned = signature.return_annotation
        parts = inspect.getmro(make)[1:-1] if inspect.isclass(make) else (returned,)
        for part in parts:
            if inspect.isclass(part) and issubclass(part, nn.Module) and part is not nn.Module:
                own = {**inspect.signature(part).parameters, **own}
    return own


def _of_torchvision(name: str, options: Arguments, in_channels: int, num_classes: int) -> nn.Module:
    from torchvision import models

    known = [own for part in (models, models.video) for own in models.list_models(part)]
    if name not in known:
        raise _unknown(f"torchvision:{name}", [f"torchvision:{own}" for own in known])
    make = functools.partial(models.get_model, name, weights=None, num_classes=num_classes)
    net = _called(f"torchvision:{name}", make, options)
    return adapted(net, in_channels, None)[0]


def require_answers(
    net: nn.Module, name: str, task: str, num_classes: int, size: Sequence[int] = ()
) -> None:
    """Refuse a network that does not answer as its task wants, by asking it once.

    Args:
        net: A network of one rank.
        name: What the user called it.
        task: One of `crossd.tasks.TASKS`.
        num_classes: Classes that its logits must have.
        size: Of the samples that it is to take; where they are of the other rank, or ``()``, a
            size that it takes is found.

    Raises:
        InputError: "... is not for ...", "... cannot take ...".
    """
    rank = rank_of(net)
    given = maps_of(example_for(net, rank), rank)
    if len(size) == rank:
        x = given.new_zeros(2, given.shape[1], *size)
        own = given.shape[2:]
        given, answer = x, answer_of(net, x, name, f"; it takes {times(own)}{_how_to_size(net)}")
    else:
        answer = answer_of(net, given, name)
    axes = 2 + rank if task_of(task).masks else 2
    if not isinstance(answer, Tensor):
        what = f"a {type(answer).__name__}"
    elif answer.dim() != axes or answer.shape[1] != num_classes:
        what = f"shape {tuple(answer.shape)}"
    elif axes > 2 and answer.shape[2:] != given.shape[2:]:
        what = f"maps of {times(answer.shape[2:])} for {times(given.shape[2:])}"
    else:
        return
    wanted = "(N, classes)" if axes == 2 else "(N, classes, ...) in the size of the input"
    raise InputError(f"{name} is not for {task}: it gives {what}, expected logits {wanted}")


def answer_of(net: nn.Module, x: Tensor, name: str, hint: str = "") -> object:
    """Ask a network in evaluation mode, without a trace, or say in one line why it cannot answer.

    Args:
        net: A network.
        x: Images or volumes.
        name: What the user called the network.
        hint: What to do, for the end of the message.

    Raises:
        InputError: "... cannot take ...".
    """
    what = "images" if x.dim() == 4 else "volumes"
    try:
        return evaluated(net, (x,))
    except InputError as error:
        raise InputError(f"{name} cannot take {what} of {times(x.shape[2:])}: {error}") from error
    except Exception as error:  # whatever a network of others may raise
        raise InputError(
            f"{name} cannot take {what} of {times(x.shape[2:])} ({one_line(error)}){hint}"
        ) from error


def times(size: Sequence[int]) -> str:
    """Write a size, such as 8 x 8."""
    return " x ".join(map(str, size))


def _how_to_size(net: nn.Module) -> str:
    if "img_size" not in inspect.signature(type(net)).parameters:
        return ""
    return ": give its size in brackets, as in --model 'NAME(img_size=32)'"


def _of_nnunet(name: str, options: Arguments, in_channels: int, num_classes: int) -> nn.Module:
    """Build a network as plans of nnU-Net write it down: see `get_network_from_plans` there.

    Outputs of deep supervision are in the weights, but only the whole one is given.
    """
    home = "dynamic_network_architectures"
    options = {"deep_supervision": False, **options}
    options.pop("configuration", None)
    where, _, own = name.rpartition(".")
    if where.partition(".")[0] != home:
        raise InputError(
            f"nnunet:{name}: crossd imports networks of {home} only; build yours in Python and "
            "give it to crossd.convert"
        )
    make = _imported(name)
    given = {key: _imported(v) if _is_path(v) else v for key, v in options.items()}
    sizes = {"input_channels": in_channels, "num_classes": num_classes}
    net = _called(f"nnunet:{own}", make, {**sizes, **given})
    initialise = getattr(net, "initialize", None)
    return net.apply(initialise) if initialise is not None else net


def _is_path(value: object) -> bool:
    """Tell whether an argument names what is to be imported."""
    return isinstance(value, str) and value.startswith(("torch.nn.", "dynamic_network_arch"))


def _imported(path: Any) -> Any:
    where, _, own = path.rpartition(".")
    try:
        return getattr(importlib.import_module(where), own)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be imported ({error}); pip install 'crossd[nnunet]', or a version of "
            f"{where.partition('.')[0]} that has it"
        ) from error


_LIBRARIES: dict[str, Callable[[str, Arguments, int, int], nn.Module]] = {
    "timm": _of_timm,
    "monai": _of_monai,
    "torchvision": _of_torchvision,
    "nnunet": _of_nnunet,
    **dict.fromkeys(ELSEWHERE, _of_timm),
}
"""What builds the networks of a library."""


def _called(name: str, make: Callable[..., nn.Module], options: Arguments) -> nn.Module:
    try:
        return make(**options)
    except Exception as error:  # whatever a constructor of others may raise
        raise InputError(
            f"{name} cannot be made of {options}: {error}; give what it needs in brackets, "
            f"{name}(ARGUMENT=VALUE, ...)"
        ) from error


def _unknown(name: str, known: list[str], what: str = "") -> InputError:
    near = difflib.get_close_matches(name, known, n=3) or known[:5]
    return InputError(f"no model called {name!r}{what}: did you mean {', '.join(near)}?")


def small_resnet(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet of three stages with 24, 48 and 96 channels, one block each, for small images."""
    from torchvision.models.resnet import BasicBlock

    channels = (24, 48, 96)
    parts: list[nn.Module] = [
        nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
        BasicBlock(channels[0], channels[0]),
    ]
    for before, after in itertools.pairwise(channels):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        parts.append(BasicBlock(before, after, 2, shortcut))
    head = nn.Linear(channels[-1], num_classes)
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), head)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _segresnet(filters: int, down: tuple[int, ...]) -> Arguments:
    # Interpolation keeps the consistency law, which a strided transposed convolution bends.
    options = {"init_filters": filters, "blocks_down": down, "blocks_up": (1,) * (len(down) - 1)}
    return {**options, "upsample_mode": "nontrainable"}


_UNETS: dict[str, tuple[str, Arguments]] = {
    "segresnet-small": ("SegResNet", _segresnet(16, (1, 1, 1))),
    "segresnet": ("SegResNet", _segresnet(16, (1, 2, 2, 4))),
    "basicunet": ("BasicUNet", {}),
    "unet": ("UNet", {"norm": "batch"}),
    "dynunet": ("DynUNet", {}),
}
"""Networks for segmentation: what MONAI calls them, and their arguments."""
