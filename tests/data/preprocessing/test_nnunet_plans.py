"""Plans of nnU-Net against nnU-Net itself: networks, axes, normalisation."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from files import message

from crossd.conversion import registry
from crossd.data.preprocessing import nnunet_plans, plan, plan_file
from crossd.data.preprocessing.plan import Intensity
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case
from crossd.inference.write_masks import in_file_order

KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


def architecture(residual: bool = False, kernels: Any = KERNELS, strides: Any = STRIDES) -> Any:
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    own = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{own}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 16],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": kernels,
            "strides": strides,
            blocks: [1, 2, 2],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(folder: Path, **changes: Any) -> str:
    """Write plans and a dataset.json as nnU-Net does; `changes` are of the configuration."""
    own = {
        "patch_size": [8, 16, 16],
        "spacing": [2.0, 1.0, 0.5],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture(),
    }
    content = {
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "2d": {"patch_size": [16, 16], "architecture": architecture()},
            "3d_fullres": {**own, **changes},
            "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [4.0, 2.0, 1.0]},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 25.0, "percentile_00_5": -80.0, "percentile_99_5": 170.0}
        },
    }
    data = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3},
        "file_ending": ".nii.gz",
    }
    folder.mkdir(exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(data))
    return f"nnunet:{folder / 'plans.json'}"


@pytest.mark.parametrize("residual", [False, True])
def test_the_network_is_that_of_nnunet(tmp_path: Path, residual: bool) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    made = architecture(residual)
    read = nnunet_plans.read(plans(tmp_path, architecture=made))
    ours = registry.build(read.model, "segmentation", 2, 3).state_dict()
    theirs = get_network_from_plans(
        made["network_class_name"],
        made["arch_kwargs"],
        made["_kw_requires_import"],
        2,
        3,
        deep_supervision=True,
    ).state_dict()
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert list(ours) == list(theirs)


def test_what_plans_say(tmp_path: Path) -> None:
    model = plans(tmp_path)
    full, low = nnunet_plans.read(model), nnunet_plans.read(f"{model}:3d_lowres")
    assert full.plan.spacing == (2.0, 1.0, 0.5) and low.plan.spacing == (4.0, 2.0, 1.0)
    assert full.plan.patch == low.plan.patch == (8, 16, 16)
    assert full.classes == {0: "background", 1: "liver", 2: "tumour"} and full.ignore == 3
    assert (full.channels, registry.multiple_of(full.model)) == (1, 4)
    record = plan_file.to_record(full.plan)
    assert record is not None and plan_file.from_record(record, "here") == full.plan


def schemes() -> list[tuple[str, bool]]:
    names = ("ZScore", "CT", "RescaleTo01", "No")
    return [(f"{name}Normalization", False) for name in names] + [("ZScoreNormalization", True)]


@pytest.mark.parametrize(("scheme", "masked"), schemes())
def test_values_are_those_of_nnunet(tmp_path: Path, scheme: str, masked: bool) -> None:
    """A brain without its skull: zeros around it, and a hole of zeros in it."""
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as theirs

    read = nnunet_plans.read(
        plans(tmp_path, normalization_schemes=[scheme], use_mask_for_norm=[masked])
    )
    image = np.random.default_rng(0).normal(60, 50, (1, 9, 12, 14)).astype(np.float32)
    inside = files.ball((9, 12, 14), (4, 6, 7), 4)
    image[0][~inside] = 0
    image[0, 4, 6, 7] = 0
    seen = json.loads((tmp_path / "plans.json").read_text())
    seen = seen["foreground_intensity_properties_per_channel"]["0"]
    cropped, seg, box = crop_to_nonzero(image.copy())
    wanted = getattr(theirs, scheme)(masked, seen).run(cropped[0].copy(), seg[0])
    ours = image.copy()
    plan.scale(ours, plan.limits(ours, read.plan.intensity, "here"), read.plan.intensity)
    where = tuple(slice(low, high) for low, high in box)
    np.testing.assert_allclose(ours[0][where], wanted, atol=2e-5)


@pytest.mark.parametrize("forward", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_axes_are_those_of_nnunet(tmp_path: Path, forward: list[int], signs: Any) -> None:
    """Files of any orientation, a mask that is stored mirrored, and the way back to the file."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    folder = tmp_path / "plans"
    model = plans(folder)
    content = json.loads((folder / "plans.json").read_text())
    content["transpose_forward"] = forward
    (folder / "plans.json").write_text(json.dumps(content))
    image, mask = files.scan((5, 6, 7))
    affine = np.diag([*(s * n for s, n in zip(signs, (0.5, 1.0, 2.0), strict=True)), 1.0])
    path = files.nifti(tmp_path / "a.nii.gz", image, affine)
    turned = affine @ np.array([[-1, 0, 0, image.shape[0] - 1], *np.eye(4)[1:]])
    other = files.nifti(tmp_path / "m.nii.gz", mask[::-1].copy(), turned)
    read = nnunet_plans.read(model)
    own = plan.Plan((1, 1, 1), (4, 4, 4), (Intensity("none", 0, 1),), axes=read.plan.axes)
    entry = read_entry(Case("a", (path,), other)).along(own.axes)
    own = plan.Plan(entry.images[0].spacing, (4, 4, 4), own.intensity, axes=own.axes)
    sample = VolumeSamples([entry], own, (0, 1, 2), None, Cache(0))[0]
    wanted, properties = SimpleITKIO().read_images((str(path),))
    wanted = wanted.transpose([0, *(axis + 1 for axis in forward)])
    spacing = np.array(properties["spacing"])[forward]
    np.testing.assert_allclose(sample["image"].numpy(), wanted, rtol=1e-6)
    np.testing.assert_allclose(entry.images[0].spacing, spacing)
    back = in_file_order(sample["mask"].numpy(), entry.images[0])
    np.testing.assert_array_equal(back, mask)


def changed(folder: Path, file: str, change: Any) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def old(content: Any) -> None:
    del content["configurations"]["3d_fullres"]["architecture"]


def first(content: Any) -> None:
    content["plans_per_stage"] = content.pop("configurations")


def elsewhere(content: Any) -> None:
    content["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"


def missing(content: Any) -> None:
    name = "dynamic_network_architectures.architectures.unet.NotThere"
    content["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = name


def regions(content: Any) -> None:
    content["labels"]["tumour"] = [1, 2]


def gaps(content: Any) -> None:
    content["labels"] = {"background": 0, "liver": 2}


def turned(content: Any) -> None:
    content["transpose_forward"] = [0, 0, 1]


def odd(content: Any) -> None:
    content["configurations"]["3d_fullres"]["patch_size"] = [8, 18, 16]


def own_scheme(content: Any) -> None:
    content["configurations"]["3d_fullres"]["normalization_schemes"] = ["MyNormalization"]


def no_labels(content: Any) -> None:
    content["labels"] = ["background", "liver"]


def flat(content: Any) -> None:
    content["configurations"]["3d_fullres"]["patch_size"] = [0, 16, 16]


@pytest.mark.parametrize(
    ("file", "change", "ending", "text"),
    [
        ("plans.json", turned, "", r"json: axes is \[2, 2, 1\]; expected 0, 1 and 2"),
        ("plans.json", flat, "", r"json: patch is \[0, 16, 16\]; expected three numbers above 0"),
        ("plans.json", odd, "", "json: the patch is 18 voxels long along axis 1, .*multiple of 4"),
        ("plans.json", own_scheme, "", "json: MyNormalization is no normalisation.*by --plan$"),
        ("dataset.json", no_labels, "", "is damaged: 3d_fullres lacks or misstates"),
        (
            "plans.json",
            None,
            ":2d",
            "json: 2d is of a 2D network, .* give .*3d_fullres$",
        ),
        ("plans.json", None, ":3d_cascade_fullres", "second stage of a cascade"),
        ("plans.json", None, ":huge", "has no configuration huge; it has 2d, 3d_fullres"),
        ("plans.json", old, "", "does not write down its network, as plans before nnU-Net 2.4"),
        ("plans.json", first, "", "is not of nnU-Net 2"),
        ("plans.json", elsewhere, "", "imports networks of dynamic_network_architectures only"),
        ("plans.json", missing, "", "NotThere: cannot be imported"),
        ("dataset.json", regions, "", "tumour is a region of several labels"),
        ("dataset.json", gaps, "", "its labels must be 0"),
    ],
)
def test_other_plans_are_refused(
    tmp_path: Path, file: str, change: Any, ending: str, text: str
) -> None:
    model = plans(tmp_path)
    if change is not None:
        changed(tmp_path, file, change)

    def build() -> None:
        read = nnunet_plans.read(model + ending)
        registry.build(read.model, "segmentation", 1, 3)

    assert re.search(text, message(build))


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    read = nnunet_plans.read(plans(tmp_path))
    read.require(1, copy.copy(read.classes), "data")
    assert "data: has 2 channels, but" in message(lambda: read.require(2, read.classes, "data"))
    other = {0: "background", 5: "spleen"}
    assert "class spleen (5)" in message(lambda: read.require(1, other, "data"))
    (tmp_path / "dataset.json").unlink()
    assert "no such file (expected the data set of" in message(
        lambda: nnunet_plans.read(f"nnunet:{tmp_path / 'plans.json'}")
    )
