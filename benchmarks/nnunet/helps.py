"""Whether nnU-Net's own training gains by starting from crossd's weights.

Eight labelled volumes of the hippocampus in nnU-Net's format; slices of other volumes, with their
masks, are the 2D data; 60 further volumes are tested. nnU-Net's trainer takes equally many steps
from new weights and from those of crossd, for every seed.

    python benchmarks/nnunet/helps.py DATA OUT

DATA has ``images/`` and ``labels/``. What is done already is kept: the same command goes on. The
results are written to ``benchmarks/results/nnunet-helps.json``. Needs ``crossd[all,nnunet]``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "nnunet-helps.json"
LABELLED, IMAGES, TESTED = 8, 100, 60
CLASSES = (1, 2)
DATASET, NAME = 902, "Dataset902_Eight"
TRAINER = "nnUNetTrainerShort"
ARMS = ("scratch", "crossd")


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of nnU-Net")
    parser.add_argument("--steps", type=int, default=20, help="an epoch")
    parser.add_argument("--images-epochs", type=int, default=2, help="of the 2D training")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    names = divided(args.data)
    layout(args.data.resolve(), out, names)
    asked = f"-d {DATASET} -c 3d_fullres -npfp 1 -np 1"
    run(out, "all", "nnUNetv2_plan_and_preprocess", *asked.split())
    rows = []
    for seed in range(args.seeds):
        for arm in ARMS:
            rows.append(one(out, arm, seed, args))
            told = {
                "labelled": LABELLED,
                "images_of": IMAGES,
                "tested": TESTED,
                "steps": args.epochs * args.steps,
                "runs": rows,
            }
            RESULTS.write_text(json.dumps(told, indent=1) + "\n")
            print(arm, seed, rows[-1]["dice"], flush=True)


def divided(data: Path) -> dict[str, list[str]]:
    """Divide the volumes, in an order that is drawn once."""
    found = sorted(path.name.removesuffix(".nii.gz") for path in (data / "images").glob("*.nii.gz"))
    order = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    ends = np.cumsum([LABELLED, IMAGES, TESTED])
    parts = np.split(np.array(order[: ends[-1]]), ends[:-1])
    return dict(zip(("labelled", "images", "test"), (part.tolist() for part in parts), strict=True))


def layout(data: Path, out: Path, names: dict[str, list[str]]) -> None:
    """Write the data set as nnU-Net wants it, and the volumes whose slices are the 2D data."""
    raw = out / "raw" / NAME
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "file_ending": ".nii.gz",
    }
    for folder, part in ((raw, "labelled"), (out / "slices", "images"), (out / "test", "test")):
        for kind in ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names[part]:
            shutil.copy(
                data / "images" / f"{name}.nii.gz", folder / "imagesTr" / f"{name}_0000.nii.gz"
            )
            shutil.copy(data / "labels" / f"{name}.nii.gz", folder / "labelsTr")
        text = json.dumps({**dataset, "numTraining": len(names[part])})
        (folder / "dataset.json").write_text(text)


def run(out: Path, key: str, command: str, *arguments: str, **variables: str) -> None:
    """Run a command once: a file named by the key tells that it ended well."""
    done = out / "done" / f"{command}-{key}"
    if done.exists():
        return
    environment = {
        **os.environ,
        "nnUNet_raw": str(out / "raw"),
        "nnUNet_preprocessed": str(out / "preprocessed"),
        "nnUNet_results": str(out / "results"),
        "nnUNet_extTrainer": str(HERE),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    program = [str(Path(sys.executable).parent / command)]
    if command.startswith("nnUNetv2_"):
        program = [sys.executable, str(HERE / "one_thread.py"), *program]
    subprocess.run([*program, *arguments], env=environment, check=True)
    done.parent.mkdir(exist_ok=True)
    done.touch()


def one(out: Path, arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test one arm with one seed."""
    key = f"{arm}-{seed}"
    place = out / key
    start: list[str] = []
    plans = f"nnunet:{out}/preprocessed/{NAME}/nnUNetPlans.json"
    if arm == "crossd":
        images = f"--data {out}/slices --model {plans} --epochs {args.images_epochs} --seed {seed}"
        run(
            out,
            f"pretrain-{key}",
            "crossd",
            "pretrain",
            *images.split(),
            "--out",
            f"{place}-2d",
            "--resume",
        )
        begin = f"{place}.pth"
        given = f"--weights {place}-2d/weights.safetensors --to nnunet --overwrite"
        run(out, f"convert-{key}", "crossd", "convert", *given.split(), "--out", begin)
        start = ["-pretrained_weights", begin]
    results = str(out / f"results-{arm}-{seed}")
    curve = f"{place}-curve.json"
    common = f"-tr {TRAINER} -device cpu".split()
    run(
        out,
        key,
        "nnUNetv2_train",
        *f"{DATASET} 3d_fullres all".split(),
        *common,
        *start,
        nnUNet_results=results,
        CROSSD_NNUNET_SEED=str(seed),
        CROSSD_NNUNET_EPOCHS=str(args.epochs),
        CROSSD_NNUNET_STEPS=str(args.steps),
        CROSSD_NNUNET_CURVE=curve,
    )
    masks = f"{place}-masks"
    asked = f"-i {out}/test/imagesTr -o {masks} -d {DATASET} -c 3d_fullres -f all --disable_tta"
    run(
        out,
        key,
        "nnUNetv2_predict",
        *asked.split(),
        *common,
        *"-npp 1 -nps 1".split(),
        nnUNet_results=results,
    )
    found = [
        dice(path, Path(masks) / path.name) for path in sorted((out / "test/labelsTr").iterdir())
    ]
    return {
        "arm": arm,
        "seed": seed,
        "dice": round(float(np.mean(found)), 5),
        "cases": [round(float(value), 5) for value in np.mean(found, 1)],
        "losses": [round(loss, 4) for loss in json.loads(Path(curve).read_text())],
    }


def dice(truth: Path, guess: Path) -> list[float]:
    """Give the Dice of each class of a volume."""
    images: list[Any] = [nib.load(path) for path in (truth, guess)]
    a, b = (np.asarray(image.dataobj) for image in images)
    return [2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum()) for c in CLASSES]


if __name__ == "__main__":
    main()
