"""Compare the masks of two predictors, file by file: ``python agreement.py FOLDER FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

LEAST = 0.99
"""Share of voxels in which they must agree."""


def main(first: Path, second: Path) -> int:
    """Print the share of voxels with the same class, and the Dice of each class; 1 if too low."""
    shares = []
    for path in sorted(first.glob("*.nii.gz")):
        images: list[Any] = [nib.load(folder / path.name) for folder in (first, second)]
        one, other = (np.asarray(image.dataobj) for image in images)
        shares.append(float((one == other).mean()))
        dice = []
        for value in sorted(set(np.unique(one)) | set(np.unique(other)) - {0}):
            if value:
                a, b = one == value, other == value
                dice.append(f"class {value:g} {2 * (a & b).sum() / (a.sum() + b.sum()):.4f}")
        print(f"{path.name}: {shares[-1]:.5f} of {one.size:,} voxels alike; Dice {', '.join(dice)}")
    if not shares:
        print(f"{first}: holds no mask", file=sys.stderr)
        return 2
    print(f"alike in {min(shares):.5f} of the voxels or more, {np.mean(shares):.5f} on average")
    return int(min(shares) < LEAST)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
