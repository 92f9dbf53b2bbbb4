"""Predict a mask by MONAI's inferer, with a network that nnU-Net trained.

    python benchmarks/nnunet/monai_predict.py MODEL IMAGE MASK

MODEL is a folder of a trained model of nnU-Net, with plans.json, dataset.json and
fold_0/checkpoint_final.pth, whose volumes are scaled by their mean and standard deviation and are
not resampled. Windows overlap by half, with Gaussian weights, and are not mirrored: what
``nnUNetv2_predict --disable_tta`` does.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import nn

CONFIGURATION = "3d_fullres"


def network(model: Path) -> tuple[nn.Module, list[int]]:
    """Build the network as nnU-Net does, with its weights; returns it with the size of windows."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    own = json.loads((model / "plans.json").read_text())["configurations"][CONFIGURATION]
    labels = json.loads((model / "dataset.json").read_text())["labels"]
    made = own["architecture"]
    net: nn.Module = get_network_from_plans(
        made["network_class_name"],
        made["arch_kwargs"],
        made["_kw_requires_import"],
        1,
        len(labels),
        deep_supervision=False,
    )
    held = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)
    net.load_state_dict(held["network_weights"])
    return net.eval(), own["patch_size"]


@torch.inference_mode()
def main(model: Path, image: Path, mask: Path) -> None:
    """Read a volume, predict its mask, and write it."""
    net, patch = network(model)
    source: Any = nib.load(image)
    volume = torch.from_numpy(np.asarray(source.dataobj, np.float32).T.copy())  # x, y, z -> z, y, x
    volume.sub_(volume.mean()).div_(volume.std())
    inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")
    found: Any = inferer(volume[None, None], net)
    classes = found[0].argmax(0).to(torch.uint8).numpy()
    made: Any = nib.Nifti1Image(classes.T, source.affine)
    made.to_filename(mask)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
