"""The weights of a 3D network, as MedicalNet publishes them, answer on images.

Run it by `python examples/back.py`. The checkpoint is made here, in MedicalNet's layout: the names
of its ResNet behind `module.`, without a classifier. The real one is `resnet_10_23dataset.pth` of
https://github.com/Tencent/MedicalNet, whose last two stages are dilated instead of strided.
"""

import tempfile
from pathlib import Path

import torch
from monai.networks.nets import resnet10
from torch import Tensor, nn

import crossd

VIEWS = ("axial", "coronal", "sagittal")


def theirs(path: Path, seed: int = 0) -> nn.Module:
    """Make a 3D network and save its weights as MedicalNet does."""
    torch.manual_seed(seed)
    net = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False)
    crossd.recalibrate(net, [torch.randn(4, 1, 32, 32, 32)])
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return net.eval()


def gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def alike(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine of what sets each row of features ``(N, C)`` apart, shape ``(N, N)``."""
    one, other = one - one.mean(0), other - other.mean(0)
    return one @ other.T / (one.norm(dim=1)[:, None] * other.norm(dim=1))


@torch.no_grad()
def main(size: int = 48, count: int = 6) -> tuple[float, dict[str, int]]:
    """Load the checkpoint, and ask about images; returns the gap on volumes, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet_10_23dataset.pth"
        solid = theirs(path)
        net = crossd.convert(resnet10(spatial_dims=2, n_input_channels=1, feed_forward=False))
        report = crossd.load_checkpoint(net, path)
    counts = ", ".join(f"{count} {what}" for what, count in report.counts().items())
    print(f"{report.note}: {counts} tensors")
    net.eval()
    volumes = torch.randn(1, 1, size, size, size)
    on_volumes = gap(net(volumes), solid(volumes))
    print(f"on volumes: {on_volumes:.1e} from the 3D network")
    # A volume that repeats an image is to the 3D network what the image is to the 2D one, but for
    # the zeros beyond its first and last slice. So an image is found among such volumes.
    images = (
        torch.rand(count, 1, 6, 6).repeat_interleave(size // 6, 2).repeat_interleave(size // 6, 3)
    )
    found = {}
    for axis, view in enumerate(VIEWS):
        flat = crossd.to_2d(net, view)  # plain torch.nn, without crossd
        repeated = torch.stack([images] * size, dim=2 + axis)
        nearest = alike(flat(images), solid(repeated)).argmax(1)
        found[view] = int((nearest == torch.arange(count)).sum())
        print(
            f"{view}: {found[view]} of {count} images are nearest to the volume that repeats them"
        )
    return on_volumes, found


if __name__ == "__main__":
    main()
