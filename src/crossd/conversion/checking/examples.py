"""What a network is run on: images or volumes that it takes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from crossd.conversion.folding.containers import mapped, tensors_in
from crossd.conversion.folding.torch_private import BatchNormBase, ConvBase
from crossd.errors import InputError

SIDES: dict[int, list[tuple[int, ...]]] = {
    2: [(32, 64), (64, 128), *((side, side) for side in (32, 64, 96, 128, 224, 256, 299, 384))],
    3: [(16, 32, 48), (32, 64, 96), (32,) * 3, (64,) * 3, (96,) * 3, (16, 224, 224), (128,) * 3],
}
"""Sizes of images and of volumes on which a network is tried, until it takes one."""


Given = tuple[object, ...]
"""The arguments of a network."""


# What a network is run on


def channels_of(net: nn.Module) -> list[int]:
    """List the numbers of channels that a network's input may have, the likeliest first."""
    kinds = ((ConvBase, "in_channels"), (BatchNormBase, "num_features"))
    found = [
        int(getattr(module, name))
        for kind, name in kinds
        for module in net.modules()
        if isinstance(module, kind)
    ][:1]
    return list(dict.fromkeys((*found, 3, 1)))


def example_for(net: nn.Module, rank: int, example: object = None) -> Given:
    """Find arguments that a network takes: a small batch of two images or volumes.

    Args:
        net: A network of this rank; it is left as it was.
        rank: 2 or 3.
        example: A batch, or a tuple of arguments; None tries several sizes.

    Raises:
        InputError: "cannot run ...".
    """
    first: Exception | None = None
    tried = [_as_arguments(example)] if example is not None else list(_examples(net, rank))
    for given in tried:
        try:
            evaluated(net, given)
            return given
        except Exception as error:  # whatever a network of others may raise
            first = first or error
    what = "images" if rank == 2 else "volumes"
    raise InputError(
        f"cannot run the network on {what} of shape {shapes(tried[0])} and larger ones "
        f"({one_line(first)}): give convert(..., example={what}) that it takes"
    )


def two_samples(net: nn.Module, given: Given) -> Given:
    """Bring images to two, which show whether a network mixes what is in one batch.

    Further ones are left out; beside one alone stands its mirror image.

    Args:
        net: A 2D network; it is left as it was.
        given: Arguments that it takes.

    Returns:
        Arguments of two samples; `given` where the network does not take them.
    """
    images = maps_of(given, 2)
    count, labels = len(images), (len(images), *images.shape[2:])

    def two(value: Tensor) -> Tensor:
        if not value.dim() or len(value) != count:
            return value
        mirrored = value.flip(-1) if value.dim() == 4 or value.shape == labels else value
        return torch.cat((value, mirrored)) if count == 1 else value[:2]

    if count == 2:
        return given
    brought: Given = mapped(two, given)
    try:
        evaluated(net, brought)
    except Exception:  # whatever a network of others may raise
        return given
    return brought


def _as_arguments(example: object) -> Given:
    return example if isinstance(example, tuple) else (example,)


def _examples(net: nn.Module, rank: int) -> Iterator[Given]:
    parameter = next(net.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    for count in channels_of(net):
        for size in (*_own_sides(net, rank), *SIDES[rank], *_trained_sides(net, rank)):
            x = torch.randn(2, count, *size, generator=generator)
            yield (x.to(parameter) if parameter.is_floating_point() else x,)


def _own_sides(net: nn.Module, rank: int) -> list[tuple[int, ...]]:
    """Sizes that a network says it was built for, as timm and MONAI keep them."""
    for module in net.modules():
        parts, patch = getattr(module, "feat_size", None), getattr(module, "patch_size", None)
        if isinstance(parts, tuple) and isinstance(patch, tuple) and len(parts) == rank:
            return [tuple(a * b for a, b in zip(parts, patch, strict=True))]
        size = getattr(module, "img_size", None) or getattr(module, "input_image_size", None)
        if isinstance(size, int):
            return [(size,) * rank]
        if isinstance(size, tuple | list) and len(size) == rank and all(size):
            return [tuple(int(side) for side in size)]
    return []


def _trained_sides(net: nn.Module, rank: int) -> list[tuple[int, ...]]:
    """The size that timm says a network was trained on."""
    shape = (getattr(net, "pretrained_cfg", None) or {}).get("input_size", ())
    return [tuple(shape[1:])] if len(shape) == 1 + rank else []


def evaluated(net: nn.Module, given: Given) -> object:
    """Run a network in evaluation mode, without a trace."""
    with left_as_it_was(net), torch.no_grad():
        return net.eval()(*given)


@contextmanager
def left_as_it_was(net: nn.Module) -> Iterator[None]:
    """Leave buffers, modes and the random state of a network as they are."""
    modes = {module: module.training for module in net.modules()}
    kept = [(b, b.detach().clone()) for b in net.buffers()]
    try:
        with forked(net):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def forked(net: nn.Module) -> AbstractContextManager[None]:
    """Leave the random state as it is, here and on the device of a network."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    where = [device.index or 0] if device.type == "cuda" else []
    context: AbstractContextManager[None] = torch.random.fork_rng(where)
    return context


def one_line(error: BaseException | None) -> str:
    """Bring the message of an error into one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:200] + "..."


def shapes(given: object) -> str:
    """Name the shapes of all tensors among some values."""
    return ", ".join(str(tuple(v.shape)) for v in tensors_in(given))


def maps_of(given: object, rank: int) -> Tensor:
    """Return the first images, or volumes, among the arguments of a network."""
    found = next((v for v in tensors_in(given) if v.dim() == rank + 2), None)
    if found is None:
        what = "images (N, C, H, W)" if rank == 2 else "volumes (N, C, D, H, W)"
        raise InputError(f"the example holds no {what}: {shapes(given)}")
    return found
