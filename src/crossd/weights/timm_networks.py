"""timm's networks for classification, with their weights from its hub or from a file."""

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from crossd.conversion import adapt
from crossd.conversion.checking.examples import one_line
from crossd.conversion.registry import ELSEWHERE, Arguments, named_by_timm, with_arguments
from crossd.errors import InputError
from crossd.weights import third_party
from crossd.weights.weights_file import is_ours

FROM_TIMM = "timm"
"""Weights that timm finds by itself: on its hub, in the cache of that, or where a name says."""


class Built(NamedTuple):
    """A network of timm's.

    Attributes:
        net: With one rank, 2.
        name: What `crossd.conversion.registry.build` makes the same network of, with new weights;
            channels and classes are given to it beside.
        said: Sentences on what was decided.
    """

    net: nn.Module
    name: str
    said: list[str]


def whose(weights: str) -> str:
    """Name the weights that a file holds, or that timm finds.

    Args:
        weights: See `build`.
    """
    return "timm's weights" if weights == FROM_TIMM else f"the weights of {weights}"


def build(
    name: str, weights: str | None, plane: Sequence[int], channels: int, classes: int
) -> Built:
    """Build a network of timm's for slices of a size.

    A network that can take images of any size is told to: it interpolates its embedding of place,
    and pads images to whole patches. Another one that is built for one size is built for that of
    `plane`, to which timm interpolates what hangs on it. The rest take images as they are.

    Args:
        name: As `crossd.conversion.registry.named_by_timm` reads it.
        weights: A file of timm's weights for this network, `FROM_TIMM` for those that timm finds,
            or None for new ones.
        plane: Height and width of slices.
        channels: Input channels; see `crossd.conversion.adapt.adapted`.
        classes: Outputs of the last layer, which is drawn anew.

    Raises:
        InputError: "no model called ...", "... cannot be fetched ...", "... does not fit ...", "no
            such file ...", or what its arguments lack.

    Example:
        >>> built = build("test_vit", None, (28, 28), 1, 2)
        >>> built.name
        'test_vit(dynamic_img_size=True, dynamic_img_pad=True)'
        >>> built.said[1]
        'patch_embed.proj: each of 1 channels has the sum over 3 by 1'
    """
    own, options = named_by_timm(name)
    given = _loading(name, weights)
    try:
        net, chosen, said = _created(own, options, plane, given)
    except TypeError as error:
        raise InputError(
            f"{name} cannot be made of {options}: {one_line(error)}; give what it takes in "
            "brackets, NAME(ARGUMENT=VALUE, ...)"
        ) from error
    except Exception as error:  # whatever the hub, or a network that is given others' weights
        raise InputError(_blame(name, own, weights, error)) from error
    assert isinstance(net.pretrained_cfg, dict)
    net.pretrained_cfg.pop("state_dict", None)  # which is loaded, and large
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    wanted = None if first.in_channels == channels else channels
    net, changed = adapt.adapted(net, wanted, classes)
    whole = {**chosen, **options}
    stays = {key: value for key, value in whole.items() if key not in ("in_chans", "num_classes")}
    return Built(net, with_arguments(own, stays), [*said, *changed])


def statistics(net: Any) -> tuple[float, float]:
    """Give mean and standard deviation of images in [0, 1] that weights of timm's expect.

    They are means over the channels, as one channel stands for all of them.

    Example:
        >>> [round(value, 4) for value in statistics(build("resnet18", None, (8, 8), 1, 2)[0])]
        [0.449, 0.226]
    """
    mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
    return sum(mean) / len(mean), sum(std) / len(std)


def _loading(name: str, weights: str | None) -> Arguments:
    """Give what tells timm which weights to load."""
    if weights is None:
        return {}
    if weights == FROM_TIMM:
        return {"pretrained": True}
    path = Path(weights).expanduser()
    if path.is_file() and is_ours(path):
        raise InputError(f"{path} is a weights file of crossd: give it as --weights")
    parts = third_party.state_dicts(third_party.read(path))
    if not parts:
        raise InputError(f"{path} is not a checkpoint: it holds no tensor")
    most = max(map(len, parts.values()))
    largest = [part for part, state in parts.items() if len(state) == most]
    if len(largest) > 1:
        raise InputError(
            f"{path} holds the weights of several networks ({', '.join(largest)}): save those of "
            "one"
        )
    from timm.models import clean_state_dict

    state = clean_state_dict(parts[largest[0]])  # without what DDP and compilers put before names
    return {
        "pretrained": True,
        "pretrained_cfg_overlay": {"state_dict": state, "source": FROM_TIMM},
    }


def _created(
    own: str, options: Arguments, plane: Sequence[int], given: Arguments
) -> tuple[Any, Arguments, list[str]]:
    """Create a network for slices of a size, in the first of these ways that it knows.

    Returns it, the arguments of the way, and what there is to say.
    """
    import timm

    size = " x ".join(map(str, plane))
    ways: list[tuple[Arguments, str]] = [
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, ""),
        ({"img_size": tuple(plane)}, f"built for slices of {size}"),
        ({}, ""),
    ]
    for way, said in ways:
        try:
            with _quiet():
                net: Any = timm.create_model(own, **{**way, **options, **given})  # type: ignore[arg-type]
        except TypeError as error:
            if not (way and any(repr(name) in str(error) for name in way)):
                raise
            continue
        if not way.keys() <= inspect.signature(type(net)).parameters.keys():
            continue  # some take any argument, and do nothing about it
        if getattr(net, "dynamic_img_size", False):
            said = _of_patches(net, plane, size)
        elif way.keys() & options.keys():  # the user chose
            said = ""
        return net, way, [said] if said else []
    raise AssertionError("the last way asks for nothing")


def _of_patches(net: Any, plane: Sequence[int], size: str) -> str:
    """Say how many patches a slice has."""
    rows, columns = net.patch_embed.dynamic_feat_size(tuple(plane))
    high, wide = net.patch_embed.patch_size
    padded = " (padded)" if (rows * high, columns * wide) != tuple(plane) else ""
    embedded = "embeddings of place are interpolated to them; " if net.pos_embed is not None else ""
    return (
        f"slices of {size} are {rows} x {columns} patches of {high} x {wide}{padded}; {embedded}"
        "a larger --size gives more"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the hub's client say nothing of its attempts; what comes of them is said once."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _blame(name: str, own: str, weights: str | None, error: Exception) -> str:
    """Say in a line why a network could not be created or loaded."""
    why = one_line(error)
    if weights not in (None, FROM_TIMM):
        found = re.search(r"(size mismatch for .*?model is .*?\.|Missing key.*?\"(.*?)\")", why)
        what = f"{why[:160]}" if found is None else found[1]
        return f"--pretrained {weights} does not fit {name}: {what}"
    if isinstance(error, RuntimeError) and "No pretrained weights" in why:
        return f"timm has no weights of {name}: leave --pretrained out, or give a file of them"
    if weights is None and own.partition(":")[0] not in ELSEWHERE:
        return f"{name} cannot be made: {why}"
    return (
        f"{name} cannot be fetched ({why.split('. ')[0][:160]}): where the hub cannot be "
        "reached, give --pretrained FILE, or --model local-dir:FOLDER with its config.json"
    )
