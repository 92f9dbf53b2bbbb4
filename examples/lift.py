"""The weights of a 2D network, lifted to 3D in three ways: what each of them keeps.

Run it by `python examples/lift.py`. Offline the weights are random; `pretrained=True` gives timm's.
"""

import timm
import torch
from torch import Tensor, nn

import crossd

LIFTS = ("center", "inflate", "triplanar")


def build(model: str) -> nn.Module:
    """Make a 2D network whose BatchNorm statistics are not those of the start."""
    # The real weights of ImageNet: timm.create_model(model, pretrained=True), over the network.
    net = timm.create_model(model, pretrained=False, num_classes=10)
    crossd.recalibrate(net, [torch.randn(8, 3, 64, 64)])
    return net.eval()


@torch.no_grad()
def away(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, as a share of the largest answer."""
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def main(model: str = "resnet18", size: int = 64) -> dict[str, tuple[float, ...]]:
    """Lift, and compare: images, and repeated images with either padding of depth."""
    torch.manual_seed(0)
    plain = build(model)
    images = torch.randn(2, 3, size, size)
    volumes = images[:, :, None].expand(-1, -1, size, -1, -1)  # each image again at every depth
    differences = {}
    print(f"{model}: how far its 3D forms are from the 2D network")
    print(f"{'lift':>10} {'images':>10} {'the image at every depth, beyond which are':>44}")
    print(f"{'':>10} {'':>10} {'zeros':>22} {'the last slices':>21}")
    for lift in LIFTS:
        net = crossd.convert(plain, lift=lift).eval()
        going_on = crossd.convert(plain, lift=lift, depth_padding="replicate").eval()
        on_images = away(net(images), plain(images))
        on_volumes = [away(form(volumes), form(images)) for form in (net, going_on)]
        differences[lift] = on_images, *on_volumes
        print(f"{lift:>10} {on_images:>10.1e} {on_volumes[0]:>22.1e} {on_volumes[1]:>21.1e}")
    print("center and inflate keep the network on images; triplanar is another one, for volumes.")
    print("inflate looks beyond the first and last slice everywhere, center only where it strides.")

    # From here on: grey volumes of three classes, in a plain 3D network.
    net = crossd.convert(plain, lift="triplanar", in_channels=1, num_classes=3)
    solid = crossd.to_3d(net).eval()
    kinds = sorted(
        {type(module).__name__ for module in solid.modules() if "Conv" in type(module).__name__}
    )
    answer = tuple(solid(torch.randn(2, 1, size, size, size)).shape)
    print(f"as a plain 3D network it is made of {', '.join(kinds)} and answers with {answer}")
    return differences


if __name__ == "__main__":
    main()
