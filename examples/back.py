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
    net = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B")
    crossd.recalibrate(net, [torch.randn(4, 1, 32, 32, 32)])
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return net.eval()


def gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def main(size: int = 48) -> dict[str, float]:
    """Load the checkpoint, and take 2D networks; returns their differences from the 3D one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet_10_23dataset.pth"
        solid = theirs(path)
        plain = resnet10(spatial_dims=2, n_input_channels=1, feed_forward=False, shortcut_type="B")
        net = crossd.convert(plain)
        print(crossd.load_checkpoint(net, path))
    net.eval()
    volumes = torch.randn(1, 1, size, size, size)
    gaps = {"volumes": gap(net(volumes), solid(volumes))}
    print(f"on volumes: {gaps['volumes']:.1e} from the 3D network")
    # A volume that repeats an image is to the 3D network what the image is to the 2D one, but for
    # the zeros that it meets beyond the first and last slice.
    image = torch.randn(1, 1, size, size)
    for axis, view in enumerate(VIEWS):
        flat = crossd.to_2d(net, view)  # plain torch.nn, without crossd
        repeated = image.unsqueeze(2 + axis).expand(volumes.shape)
        gaps[view] = gap(flat(image), solid(repeated))
        print(f"{view:>8}: an image is {gaps[view]:.2f} from the volume that repeats it")
    return gaps


if __name__ == "__main__":
    main()
