"""A LightningModule whose network learns on images and is validated on volumes.

Run it by `python examples/lightning_module.py`; it needs pytorch-lightning. crossd adds `convert`,
the views of the slices, and `recalibrate` before each validation.
"""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from classify import CLASSES, VIEWS, draw, slices
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.models import resnet18

import crossd


class Slices(Dataset[Any]):
    """A slice near the middle of each volume, another one every time."""

    def __init__(self, volumes: Tensor, labels: Tensor) -> None:
        self.volumes, self.labels = volumes, labels
        self.generator = torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        one = self.volumes[index : index + 1], self.labels[index : index + 1]
        images, labels, axes = slices(*one, self.generator)
        return images[0], labels[0], VIEWS[int(axes)]


class Classifier(pl.LightningModule):
    """Any 2D or 3D network, trained on images, asked about volumes."""

    def __init__(self, net: nn.Module, scans: Tensor) -> None:
        super().__init__()
        self.net = crossd.convert(net, in_channels=1, num_classes=len(CLASSES))
        self.scans = scans  # without labels, for BatchNorm

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels, views = batch
        with crossd.view(views):  # a list with the view of every slice
            loss = F.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_start(self) -> None:
        crossd.recalibrate(self.net, self.scans.to(self.device).split(12))

    def validation_step(self, batch: Any, index: int) -> None:
        volumes, labels = batch
        right = (self.net(volumes).argmax(1) == labels).float().mean()
        self.log("accuracy", right, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(size: int = 32, count: int = 96, epochs: int = 10, net: nn.Module | None = None) -> float:
    """Train, and validate at the end; returns the accuracy on new volumes."""
    pl.seed_everything(0, verbose=False)
    volumes, labels = draw(count, size, seed=0)
    module = Classifier(net or resnet18(), volumes)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, limit_val_batches=0, accelerator="cpu", **quiet)
    trainer.fit(module, DataLoader(Slices(volumes, labels), batch_size=24, shuffle=True))
    trainer.limit_val_batches = 1.0
    new = DataLoader(TensorDataset(*draw(60, size, seed=2)), batch_size=12)
    accuracy = float(trainer.validate(module, new, verbose=False)[0]["accuracy"])
    print(f"trained on slices, right on {accuracy:.0%} of 60 new volumes (chance: 33%)")
    return accuracy


if __name__ == "__main__":
    main()
