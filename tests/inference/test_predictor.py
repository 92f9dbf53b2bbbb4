import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossd.data.preprocessing import plan_file, resample
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case
from crossd.errors import InputError
from crossd.inference import predictor
from crossd.inference.write_masks import in_file_order
from crossd.weights.weights_file import WeightsConfig

SIDES = st.tuples(*[st.integers(1, 12)] * 3)


@given(have=SIDES, want=SIDES, cuts=st.sets(st.integers(1, 11)))
@settings(deadline=None)
def test_restoring_in_slabs_is_restoring_at_once(
    have: tuple[int, int, int], want: tuple[int, int, int], cuts: set[int]
) -> None:
    x = torch.rand(3, *have)
    expected = torch.stack([resample.image(x[k][None], want)[0] for k in range(3)])
    edges = [0, *sorted(c for c in cuts if c < have[0]), have[0]]
    parts = [(a, x[:, a:b]) for a, b in itertools.pairwise(edges)]
    found = torch.from_numpy(predictor.restore(parts, have, want)).long()
    best = expected.max(0).values
    chosen = expected.gather(0, found[None])[0]
    torch.testing.assert_close(chosen, best, atol=1e-5, rtol=0)


class Threshold(nn.Module):
    """Two classes: low and high values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x, x - 0.5], 1) * 20


PLAN = Plan((1.0, 1.0, 1.0), (12, 12, 12), (Intensity("window", 0, 100),))
WEIGHTS = WeightsConfig(
    "custom",
    "segmentation",
    1,
    ("background", "ball"),
    plan=plan_file.to_record(PLAN),
    values=(0, 3),
)
FABRIC = Fabric(accelerator="cpu", devices=1)


def affine(order: list[int], signs: tuple[int, ...], spacing: tuple[float, ...]) -> Any:
    made = np.zeros((4, 4))
    for stored, (axis, sign, side) in enumerate(zip(order, signs, spacing, strict=True)):
        made[axis, stored] = sign * side
    made[3, 3] = 1
    return made


@given(order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3))
@settings(max_examples=10, deadline=None)
def test_masks_lie_on_what_they_mark_in_every_orientation(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple[int, ...]
) -> None:
    ball = files.ball((14, 18, 22), (6, 8, 12), 5)
    path = files.nifti(
        tmp_path_factory.mktemp("v") / "a.nii", 100.0 * ball, affine(order, signs, (1.5, 1.0, 0.7))
    )
    entry = read_entry(Case("a", (path,)))
    found = predictor.segment(Threshold(), entry, WEIGHTS, FABRIC)
    back = in_file_order(found, entry.images[0])
    assert back.shape == ball.shape
    overlap = 2 * (back.astype(bool) & ball).sum() / (back.sum() + ball.sum())
    assert overlap > 0.93


def test_what_lies_around_the_box_is_background(tmp_path: Path) -> None:
    """Zeros around a volume change nothing within it, and are of no class: as by nnU-Net."""

    class Unsure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x.mean() - x], 1)  # zeros are the second class

    how = Plan(
        (2.0, 1.0, 0.5), (8, 12, 16), (Intensity("z-score", 0, 100, region="box"),), box=True
    )
    weights = replace(WEIGHTS, plan=plan_file.to_record(how))
    image = files.scan((15, 20, 13))[0] + 1.0
    padded = np.pad(image, ((3, 1), (0, 5), (4, 2)))
    found = [
        predictor.segment(
            Unsure().eval(),
            read_entry(Case(name, (files.nifti(tmp_path / f"{name}.nii.gz", x),))),
            weights,
            FABRIC,
        )
        for name, x in (("alone", image), ("padded", padded))
    ]
    alone, whole = found
    assert 0 < alone.sum() < alone.size
    z, y, x = alone.shape
    np.testing.assert_array_equal(whole[4 : 4 + z, :y, 3 : 3 + x], alone)
    assert whole.sum() == alone.sum()


def test_weights_without_a_plan(tmp_path: Path) -> None:
    bare = WeightsConfig("custom", "segmentation", 1, ("a", "b"), spacing=(2, 2, 2), size=(16, 16))
    made = predictor.plan_of(bare)
    assert made.patch == (16, 16, 16) and made.intensity[0].kind == "percentiles"
    with pytest.raises(InputError, match="know no spacing"):
        predictor.plan_of(WeightsConfig("custom", "segmentation", 1, ("a", "b")))


@pytest.mark.parametrize("planned", [False, True])
def test_labels_of_volumes(tmp_path: Path, planned: bool) -> None:
    path = files.nifti(tmp_path / "a.nii", files.scan((20, 24, 28))[0])
    sizes = []

    def net(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return torch.tensor([[1.0, 2.0]])

    weights = WeightsConfig(
        "custom", "classification", 1, ("a", "b"), size=(8, 8, 8),
        plan=plan_file.to_record(PLAN) if planned else None,
    )  # fmt: skip
    entry = read_entry(Case("a", (path,)))
    found = predictor.label(net, entry, weights, FABRIC)  # type: ignore[arg-type]
    assert sizes == [(1, 1, 12, 12, 12) if planned else (1, 1, 8, 8, 8)]
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0]).softmax(0))


@pytest.mark.slow
def test_a_large_volume_of_many_classes_takes_less_than_8_gib(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"""
import resource, numpy as np, torch
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from lightning_fabric import Fabric
from torch import nn
import files
from crossd.inference import predictor
from crossd.weights.weights_file import WeightsConfig
from crossd.data.preprocessing import plan_file
from crossd.data.sources.case_list import Case
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.sources.case_files import read_entry
noise = np.random.default_rng(0).normal(size=(384,) * 3).astype(np.float32)
path = files.nifti(Path({str(tmp_path)!r}) / "a.nii", noise)
del noise
how = Plan((1.0,) * 3, (128,) * 3, (Intensity("z-score", 0.5, 99.5),))
classes, record = tuple(map(str, range(20))), plan_file.to_record(how)
weights = WeightsConfig("custom", "segmentation", 1, classes, plan=record)
fabric = Fabric(accelerator="cpu", devices=1)
net = nn.Conv3d(1, 20, 3, padding=1).eval()
found = predictor.segment(net, read_entry(Case("a", (path,))), weights, fabric)
assert found.shape == (384,) * 3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 8
