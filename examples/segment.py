"""A U-Net learns on slices of NIfTI files and writes masks for new ones.

Run it by `python examples/segment.py`; it takes two minutes on one core. The files are made on the
fly. The commands are those of the shell: put your own folder in the place of `data`.
"""

import shlex
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from crossd.cli import main as crossd


def make(root: Path, count: int, shape: tuple[int, int, int], seed: int) -> None:
    """Write scans of two balls, and their masks, voxels of 1 x 1 x 2 mm."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros(shape, np.uint8)
        for label, place in ((1, 0.35), (2, 0.65)):
            center = np.array(shape) * (place + rng.uniform(-0.08, 0.08, 3))
            far = np.sqrt(sum((a - c) ** 2 for a, c in zip(grid, center, strict=True)))
            mask[far < min(shape) * rng.uniform(0.15, 0.22)] = label
        image = 100.0 * (mask > 0) + 40.0 * (mask == 2) + rng.normal(0, 25, shape)
        for folder, array in (("images", image.astype(np.float32)), ("labels", mask)):
            file = nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]))
            nib.save(file, root / folder / f"case_{i:02}.nii.gz")


def run(line: str) -> None:
    """Run a command as the shell would."""
    print(f"$ {line}")
    if code := crossd(shlex.split(line)[1:]):
        raise SystemExit(code)


def dice(guess: Path, truth: Path, label: int) -> float:
    """Return twice the common volume over the sum of both."""
    one, other = (np.asarray(nib.load(path).dataobj) == label for path in (guess, truth))
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def main(
    model: str = "unet",
    shape: tuple[int, int, int] = (48, 40, 24),
    options: str = "--epochs 24 --lr 0.01",
) -> float:
    """Train on slices, recalibrate, predict; returns the mean Dice on new scans."""
    with tempfile.TemporaryDirectory() as folder:
        data, new, out = (Path(folder) / name for name in ("data", "new", "out"))
        make(data, 10, shape, seed=0)
        make(new, 3, shape, seed=1)
        run(f"crossd pretrain --data {data} --model {model} --out {out}/2d {options}")
        run(
            f"crossd recalibrate --weights {out}/2d/weights.safetensors --data {data} "
            f"--out {out}/ready.safetensors"
        )
        ready = f"--weights {out}/ready.safetensors"
        run(f"crossd predict {ready} --input {new}/images --out {out}/masks")
        files = sorted((new / "labels").glob("*.nii.gz"))
        scores = [dice(out / "masks" / f.name, f, label) for f in files for label in (1, 2)]
    mean = float(np.mean(scores))
    print(f"trained on slices: mean Dice of both labels on {len(files)} new scans {mean:.3f}")
    return mean


if __name__ == "__main__":
    main()
