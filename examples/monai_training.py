"""A MONAI training of the usual form, with three lines more: slices teach the 3D network.

Run it by `python examples/monai_training.py`, on scans that are made here, or with a folder of your
own that holds imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz. The three lines have numbers.
"""

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, Dataset, create_test_image_3d, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SegResNet
from monai.utils import set_determinism

import crossd

KEYS = ("image", "label")


def make(folder: Path, count: int = 10, size: int = 48) -> None:
    """Write scans of balls in noise, and their masks."""
    for case in range(count):
        pair = create_test_image_3d(size, size, size, rad_max=size // 4, num_seg_classes=1)
        for part, array in zip(("imagesTr", "labelsTr"), pair, strict=True):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"case_{case}.nii.gz")


def main(folder: str = "", epochs: int = 20, window: int = 32) -> float:
    """Train on slices, answer on volumes; returns the mean Dice of the volumes left out."""
    set_determinism(0)
    load = [mt.LoadImaged(KEYS, ensure_channel_first=True), mt.Orientationd(KEYS, "SAR")]
    load += [mt.NormalizeIntensityd("image"), mt.SpatialPadd(KEYS, [window] * 3)]
    with tempfile.TemporaryDirectory() as made:
        if not folder:
            make(Path(made))
        images = sorted(Path(folder or made, "imagesTr").glob("*.nii*"))
        files = [{"image": i, "label": i.parents[1] / "labelsTr" / i.name} for i in images]
        scans = CacheDataset(files, mt.Compose(load), progress=False)
    classes = int(max(scan["label"].max() for scan in scans)) + 1
    known, new = scans[len(scans) // 5 :], scans[: len(scans) // 5]

    net = SegResNet(spatial_dims=3, in_channels=1, out_channels=classes, init_filters=8)
    net = crossd.convert(net).train()  # 1: the same network, which takes images too
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    for epoch in range(epochs):
        for axis, view in enumerate(("axial", "coronal", "sagittal")):
            crop = mt.RandSpatialCropd(KEYS, [1 if n == axis else window for n in range(3)])
            for batch in DataLoader(Dataset(known, crop), batch_size=4, shuffle=True):
                image, label = (batch[key].squeeze(2 + axis) for key in KEYS)
                with crossd.view(view):  # 2: across which axis the images were cut
                    loss = criterion(net(image), label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        print(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}")

    net = crossd.to_3d(net).eval()  # 3: MONAI's own network again, to go on with in 3D
    inferer = SlidingWindowInferer([window] * 3, overlap=0.5, mode="gaussian")
    metric = DiceMetric(include_background=False, num_classes=classes)
    with torch.no_grad():
        for batch in DataLoader(new, batch_size=1):
            found = inferer(batch["image"], net).argmax(1, keepdim=True)
            metric(decollate_batch(found), decollate_batch(batch["label"]))
    dice = float(metric.aggregate())
    print(f"trained on slices alone: Dice of {len(new)} volumes left out {dice:.3f}")
    return dice


if __name__ == "__main__":
    main(*sys.argv[1:2])
