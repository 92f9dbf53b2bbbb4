"""Cross-D in a training loop of your own: Lightning Fabric, with MONAI's data, network and loss.

Run it by `python examples/own_loop.py`. What crossd adds to such a loop is `convert`, the views of
the slices in a batch, and `recalibrate` at the end.
"""

import torch
from lightning_fabric import Fabric
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd
from torch import Tensor

import crossd

FEATURES = (8, 8, 16, 32, 32, 8)


def draw(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw volumes ``(N, 1, D, H, W)`` of a ball in noise, and their masks of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    centers = size * (0.4 + 0.2 * torch.rand(count, 3, 1, 1, 1, generator=generator))
    radii = size * (0.15 + 0.15 * torch.rand(count, 1, 1, 1, generator=generator))
    grid = torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij"))
    masks = ((grid - centers).square().sum(1).sqrt() < radii)[:, None]
    return masks + 0.5 * torch.randn(masks.shape, generator=generator), masks.long()


def cut(volumes: Tensor, masks: Tensor) -> list[dict[str, object]]:
    """Cut volumes into slices along all axes; each remembers its view."""
    slices: list[dict[str, object]] = []
    places = range(volumes.shape[-1] // 4, 3 * volumes.shape[-1] // 4, 2)
    for volume, mask in zip(volumes, masks, strict=True):
        for axis, view in enumerate(("axial", "coronal", "sagittal"), start=1):
            for place in places:
                image, truth = volume.select(axis, place), mask.select(axis, place)
                slices.append({"image": image, "mask": truth, "view": view})
    return slices


def main(size: int = 32, count: int = 12, epochs: int = 3, accelerator: str = "auto") -> float:
    """Train on slices, then ask about volumes; returns the Dice of the ball."""
    fabric = Fabric(accelerator=accelerator, devices=1)
    fabric.seed_everything(0, verbose=False)
    noise = Compose([RandScaleIntensityd("image", 0.1), RandGaussianNoised("image", std=0.1)])
    volumes, masks = draw(count, size, seed=0)
    loader = DataLoader(Dataset(cut(volumes, masks), noise), batch_size=16, shuffle=True)
    net = crossd.convert(BasicUNet(2, 1, 2, FEATURES, norm="batch"))  # the one line
    net, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=3e-3))
    loader = fabric.setup_dataloaders(loader)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    net.train()
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            with crossd.view(batch["view"]):  # a list with the view of every slice
                loss = criterion(net(batch["image"]), batch["mask"])
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}")

    crossd.recalibrate(net, fabric.to_device(volumes).split(2))  # needs no labels
    net.eval()
    volumes, masks = draw(4, size, seed=1)
    with torch.no_grad():
        answers = net(fabric.to_device(volumes)).argmax(1, keepdim=True).cpu()
    dice = float(2 * (answers * masks).sum() / (answers.sum() + masks.sum()))
    print(f"trained on slices: Dice of the ball in {len(volumes)} new volumes {dice:.3f}")
    return dice


if __name__ == "__main__":
    main()
