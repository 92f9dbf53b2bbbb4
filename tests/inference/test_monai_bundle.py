"""Bundles: MONAI alone does with a volume what `crossd predict` does."""

import csv
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import normal
from torch import nn

import crossd
from crossd.cli import main
from crossd.data.preprocessing import plan as planning
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.preprocessing.plan_file import to_record
from crossd.errors import InputError
from crossd.inference.monai_bundle import FILES, write_bundle
from crossd.inference.monai_config import inference, preparation
from crossd.weights.weights_file import WeightsConfig, save

KINDS = {
    "window": Intensity("window", -1.0, 2.0),
    "percentiles": Intensity("percentiles", 2.0, 95.0),
    "z-score": Intensity("z-score", 0.5, 99.5),
    "mean": Intensity("window", -100, 200, mean=30.0, std=50.0),
    "none": Intensity("none", 0, 1),
}
SPACING = (2.0, 1.0, 1.5)
MASKS = WeightsConfig(
    "segresnet-small",
    "segmentation",
    1,
    ("background", "liver", "spleen"),
    mean=0.2,
    std=1.5,
    size=(24, 40, 32),
    spacing=SPACING,
    plan=to_record(Plan(SPACING, (24, 40, 32), (KINDS["z-score"],))),
    values=(0, 3, 7),
    modalities=1,
)
LABELS = WeightsConfig(
    "resnet-small",
    "classification",
    1,
    ("a", "b", "c"),
    size=(16, 12, 20),
    spacing=SPACING,
    plan=to_record(Plan(SPACING, (16, 12, 20), (KINDS["percentiles"],))),
    modalities=1,
)

# MONAI alone: whoever imports crossd raises.
RUN = """
import sys
sys.modules["crossd"] = None
from monai.bundle import run, verify_net_in_out
root, scans, answers = sys.argv[1:]
given = {"config_file": f"{root}/configs/inference.json", "bundle_root": root}
verify_net_in_out("network_def", meta_file=f"{root}/configs/metadata.json", device="cpu", **given)
run(dataset_dir=scans, output_dir=answers, device="$torch.device('cpu')", **given)
"""


def moved(config: WeightsConfig) -> nn.Module:
    """Build a network all of whose numbers were moved at random."""
    net = config.build()
    with torch.no_grad():
        for n, tensor in enumerate(net.state_dict().values()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * normal(*tensor.shape, seed=n, dtype=tensor.dtype).abs())
    return net.eval()


def run_by_monai(bundle: Path, scans: Path, answers: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(bundle), str(scans), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def scan(path: Path, spacing: tuple[float, float, float], turned: bool = False) -> None:
    """Write a scan of two smooth balls, (x, y, z) voxels of `spacing` mm."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (30, 33, 21)), indexing="ij"))
    image = sum(
        height * np.exp(-8 * sum((a - c) ** 2 for a, c in zip(grid, center, strict=True)))
        for height, center in ((1.0, (0.3, 0.2, -0.1)), (2.0, (-0.4, -0.2, 0.2)))
    )
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-20.0, 13.0, 5.0)
    if turned:
        way = np.array([[2, -1], [0, 1], [1, -1]])
        affine = affine @ nib.orientations.inv_ornt_aff(way, image.shape)
        image = nib.orientations.apply_orientation(image, way)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(image.astype(np.float32), affine).to_filename(path)


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["volume", "orientations", "slices", "both"])
def test_masks_are_those_of_predict(answer: str, tmp_path: Path) -> None:
    weights, scans = tmp_path / "weights.safetensors", tmp_path / "scans"
    for name, spacing, turned in (
        ("same", (1.5, 1.0, 2.0), False),
        ("turned", (1.5, 1.0, 2.0), True),
        ("other", (1.2, 1.3, 1.8), True),
    ):
        scan(scans / f"{name}.nii.gz", spacing, turned)
    config = WeightsConfig(**{**vars(MASKS), "answer": answer})
    save(moved(config), weights, config)
    out = ["--weights", str(weights), "--out"]
    assert main(["export", *out, str(tmp_path / "bundle"), "--to", "bundle"]) == 0
    assert main(["predict", *out, str(tmp_path / "ours"), "--input", str(scans)]) == 0
    run_by_monai(tmp_path / "bundle", scans, tmp_path / "theirs")
    for name in ("same", "turned", "other"):
        ours: Any = nib.load(tmp_path / "ours" / f"{name}.nii.gz")
        theirs: Any = nib.load(tmp_path / "theirs" / f"{name}_mask.nii.gz")
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-6)
        one, other = (np.asarray(mask.dataobj) for mask in (ours, theirs))
        assert set(np.unique(one)) > {0} and one.dtype == other.dtype == np.uint8
        # A scan in the plan's grid fits into one window. Where voxels are sampled, MONAI keeps the
        # first voxel's place, crossd the field of view; and small weights of windows differ.
        alike = (one == other).mean()
        assert alike >= (0.99 if name == "other" else 0.9999), (name, alike)


@pytest.mark.slow
def test_masks_of_cases_of_several_files(tmp_path: Path) -> None:
    """Each of which is scaled otherwise, and their channels put together."""
    weights, scans = tmp_path / "weights.safetensors", tmp_path / "scans"
    for number in range(2):
        scan(scans / f"case_000{number}.nii.gz", (1.5, 1.0, 2.0), turned=True)
    plan = to_record(Plan(SPACING, (24, 40, 32), (KINDS["window"], KINDS["z-score"])))
    own = {"plan": plan, "in_channels": 2, "modalities": 2}
    config = WeightsConfig(**{**vars(MASKS), **own})
    save(moved(config), weights, config)
    out = ["--weights", str(weights), "--out"]
    assert main(["export", *out, str(tmp_path / "bundle"), "--to", "bundle"]) == 0
    assert main(["predict", *out, str(tmp_path / "ours"), "--input", str(scans)]) == 0
    run_by_monai(tmp_path / "bundle", scans, tmp_path / "theirs")
    masks: list[Any] = [
        nib.load(next((tmp_path / who).glob("*.nii.gz"))) for who in ("ours", "theirs")
    ]
    one, other = (np.asarray(mask.dataobj) for mask in masks)
    assert one.shape == other.shape and (one == other).mean() >= 0.9999 and one.any()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_tables_are_those_of_predict(task: str, tmp_path: Path) -> None:
    weights, scans = tmp_path / "weights.safetensors", tmp_path / "scans"
    scan(scans / "one.nii.gz", (1.5, 1.0, 2.0))
    scan(scans / "two.nii.gz", (1.5, 1.0, 2.0), turned=True)
    scales: dict[str, Any] = {"number_mean": (3.0, 1.0, 0.0), "number_std": (2.0, 0.5, 4.0)}
    own = scales if task == "regression" else {}
    config = WeightsConfig(**{**vars(LABELS), "task": task, **own})
    save(moved(config), weights, config)
    out = ["--weights", str(weights), "--out"]
    assert main(["export", *out, str(tmp_path / "bundle"), "--to", "bundle"]) == 0
    assert main(["predict", *out, str(tmp_path / "ours"), "--input", str(scans)]) == 0
    run_by_monai(tmp_path / "bundle", scans, tmp_path / "theirs")
    with (tmp_path / "ours" / "predictions.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    ours = {Path(row[0]).name: np.array(row[-3:], float) for row in rows}
    with (tmp_path / "theirs" / "predictions.csv").open() as file:
        theirs = {Path(row[0]).name: np.array(row[1:], float) for row in csv.reader(file)}
    assert ours.keys() == theirs.keys() and len(ours) == 2
    for name, values in ours.items():
        # Crops of an odd number of voxels begin one voxel apart.
        np.testing.assert_allclose(theirs[name], values, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), tuple(KINDS)])
def test_values_are_scaled_as_by_the_plan(kinds: tuple[str, ...]) -> None:
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor

    scales = tuple(KINDS[kind] for kind in kinds)
    plan = to_record(Plan(SPACING, (24, 40, 32), scales))
    count = len(kinds)
    given = {"plan": plan, "in_channels": count, "modalities": count, "mean": 0.0, "std": 1.0}
    record: Any = inference(WeightsConfig(**{**vars(MASKS), **given}), "net.pt2")
    steps = record["preprocessing"]["transforms"]
    names = [step["_target_"] for step in steps]
    first, last = names.index("EnsureTyped") + 1, names.index("Spacingd")
    image = normal(count, 5, 7, 6, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI, on its own defaults
        compose = {"_target_": "Compose", "transforms": steps[first:last]}
        transform: Any = ConfigParser({"scaled": compose}).get_parsed_content("scaled")
        scaled = transform({"image": MetaTensor(image.clone())})
    assert list(scaled) == ["image"]
    expected = image.numpy().copy()
    planning.scale(expected, planning.limits(expected, scales, "here"), scales)
    torch.testing.assert_close(scaled["image"].as_tensor(), torch.from_numpy(expected))


@pytest.mark.parametrize(("own", "value"), [("axes", (2, 1, 0)), ("box", True)])
def test_plans_that_monai_cannot_follow_are_refused(tmp_path: Path, own: str, value: Any) -> None:
    plan = to_record(replace(Plan(SPACING, (24, 40, 32), (KINDS["window"],)), **{own: value}))
    config = WeightsConfig(**{**vars(MASKS), "plan": plan})
    with pytest.raises(InputError, match=rf"has {own}, as plans of nnU-Net, which a bundle"):
        write_bundle(moved(MASKS), tmp_path / "bundle", config=config)
    assert not (tmp_path / "bundle").exists()


def test_what_a_bundle_holds(tmp_path: Path) -> None:
    net = moved(MASKS)
    told = write_bundle(net, tmp_path, config=MASKS, licence="cc-by-nc-4.0")
    assert f"written: {tmp_path}" in told
    assert {name for name in FILES if (tmp_path / name).is_file()} == set(FILES)
    assert "cc-by-nc-4.0" in (tmp_path / "LICENSE").read_text()
    readme = (tmp_path / "docs" / "README.md").read_text()
    assert "0: background, 3: liver, 7: spleen" in readme and "2 x 1 x 1.5 mm" in readme
    record = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    required = (
        "version monai_version pytorch_version numpy_version required_packages_version task "
        "description authors copyright network_data_format"
    )
    assert set(required.split()) <= record.keys()
    form = record["network_data_format"]
    assert form["inputs"]["image"]["spatial_shape"] == [24, 40, 32]
    assert form["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "liver",
        "2": "spleen",
    }
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    torch.testing.assert_close(dict(state), dict(crossd.to_3d(net).state_dict()))


def test_cases_of_several_files(tmp_path: Path) -> None:
    for name in ("b_0000.nii.gz", "b_0001.nii.gz", "a_0000.nii", "a_0001.nii"):
        (tmp_path / name).touch()
    plan = to_record(Plan(SPACING, (24, 40, 32), (KINDS["z-score"],) * 2))
    config = WeightsConfig(**{**vars(MASKS), "plan": plan, "in_channels": 2, "modalities": 2})
    from monai.bundle import ConfigParser

    parser = ConfigParser(inference(config, "net.pt2"))
    parser["dataset_dir"] = str(tmp_path)
    found: Any = parser.get_parsed_content("datalist")
    assert [[Path(file).name for file in case] for case in found] == [
        ["a_0000.nii", "a_0001.nii"],
        ["b_0000.nii.gz", "b_0001.nii.gz"],
    ]


def refused(message: str, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *given, "--to", "bundle"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, bundle = tmp_path / "weights.safetensors", tmp_path / "bundle"
    save(moved(MASKS), weights, MASKS)
    given = ["--weights", str(weights), "--out", str(bundle)]
    refused("--view is for --to 2d and 3d", [*given, "--view", "coronal"], capsys)
    (bundle / "docs").mkdir(parents=True)
    (bundle / "docs" / "README.md").write_text("mine")
    refused("has docs/README.md already", given, capsys)
    flat = WeightsConfig(**{**vars(MASKS), "plan": None, "spacing": None, "size": (16, 16)})
    save(moved(flat), weights, flat)
    refused("the weights know no spacing", [*given, "--overwrite"], capsys)
    save(crossd.to_2d(moved(MASKS)), weights, WeightsConfig(**{**vars(MASKS), "form": "2d"}))
    refused("a plain 2D network cannot take volumes", [*given, "--overwrite"], capsys)
    assert main(["export", *given[:2], "--out", "net.pt2", "--to", "3d", "--licence", "mit"]) == 2
    assert "--licence is for --to bundle" in capsys.readouterr().err
    with pytest.raises(InputError, match="no configuration"):
        write_bundle(moved(MASKS), tmp_path / "other")


def test_weights_of_arrays_resize_whole_volumes() -> None:
    config = WeightsConfig(**{**vars(LABELS), "plan": None, "spacing": None, "size": (12, 12)})
    assert preparation(config).window == (12, 12, 12) and preparation(config).spacing is None
    steps: Any = inference(config, "net.pt2")["preprocessing"]
    assert [
        step["spatial_size"] for step in steps["transforms"] if step["_target_"] == "Resized"
    ] == [[12, 12, 12]]
