from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import Made

from crossd.data.dataset import Sample, Samples
from crossd.data.patches import Patches
from crossd.data.preprocessing.volume_dataset import TensorVolumes


def volumes(*sides: tuple[int, int, int]) -> TensorVolumes:
    """Volumes whose values are the classes of their masks, with a few labelled voxels."""
    masks = []
    for i, shape in enumerate(sides):
        mask = torch.zeros(shape, dtype=torch.uint8)
        mask.view(-1)[:: 37 + i] = 1
        mask.view(-1)[5:8] = 2
        masks.append(mask)
    return TensorVolumes([mask[None].float() for mask in masks], masks, (8, 8, 8))


SIDES = st.tuples(*[st.integers(4, 20)] * 3)


@given(sides=SIDES, size=SIDES, seed=st.integers(0, 99))
@settings(deadline=None)
def test_patches_have_their_size_and_masks_lie_where_images_do(
    sides: tuple[int, int, int], size: tuple[int, int, int], seed: int
) -> None:
    sample = Patches(volumes(sides), size, seed)[0]
    assert sample["image"].shape == (1, *size) and sample["mask"].shape == size
    assert torch.equal(sample["image"][0], sample["mask"].float())
    if all(n <= want for n, want in zip(sides, size, strict=True)):
        assert sample["mask"].sum() == volumes(sides)[0]["mask"].sum()


def test_most_patches_hold_labels_of_every_class() -> None:
    mask = torch.zeros(40, 40, 40, dtype=torch.uint8)
    mask[3, 4, 5], mask[30:34, 30:34, 30:34] = 1, 2  # one voxel, and many
    made = Patches(TensorVolumes([mask[None].float()], [mask], (8, 8, 8)), (8, 8, 8), 0)
    held = {1: 0, 2: 0}
    for epoch in range(200):
        made.set_epoch(epoch)
        for value in held:
            held[value] += int((made[0]["mask"] == value).any())
    assert min(held.values()) > 40


def test_draws_depend_on_seed_epoch_and_sample_only() -> None:
    many = volumes((20, 20, 20), (20, 20, 20))
    one, other = (Patches(many, (8, 8, 8), 3, augment=True) for _ in range(2))
    first = one[0]["image"]
    _ = other[1]
    assert torch.equal(other[0]["image"], first)
    one.set_epoch(1)
    assert not torch.equal(one[0]["image"], first)
    one.set_epoch(0)
    assert torch.equal(one[0]["image"], first)
    assert not torch.equal(Patches(many, (8, 8, 8), 4, augment=True)[0]["image"], first)


def test_centers() -> None:
    x = torch.arange(10.0)[None, None, None].expand(1, 4, 4, 10)
    mask = torch.zeros(4, 4, 10, dtype=torch.uint8)
    made = Patches(TensorVolumes([x], [mask], (4, 4, 4)), (4, 6, 4), 0, center=True)
    assert made[0]["image"][0, 2, 3].tolist() == [3, 4, 5, 6]
    assert made[0]["image"].shape == (1, 4, 6, 4)


class Images(Samples):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        rows = torch.linspace(0, 1, 32)
        image = (rows[:, None] + rows)[None]
        return {"image": image, "mask": (image[0] > 1).long(), "view": 1}


@pytest.mark.parametrize("rank", [2, 3])
def test_disturbed_masks_follow_their_images(rank: int) -> None:
    samples: Samples = Images()
    if rank == 3:
        ramp = torch.linspace(0, 1, 24)
        image = (ramp[:, None, None] + ramp[:, None] + ramp)[None] * 2 / 3
        samples = TensorVolumes([image], [(image[0] > 1).byte()], (24, 24, 24))
    made = Patches(samples, None, 0, augment=True)
    moved, agree = 0, []
    for epoch in range(12):
        made.set_epoch(epoch)
        sample = made[0]
        assert type(sample["image"]) is torch.Tensor and type(sample["mask"]) is torch.Tensor
        assert sample["mask"].dtype == torch.int64
        moved += not torch.equal(sample["mask"], samples[0]["mask"])
        image, mask = sample["image"][0], sample["mask"].bool()
        # Values are disturbed, but what is labelled stays brighter than what is not.
        agree.append(float((image[mask].mean() > image[~mask].mean()).float()))
    assert moved >= 4 and np.mean(agree) == 1


def test_flat_voxels_are_not_turned_out_of_their_plane() -> None:
    image = torch.zeros(1, 6, 32, 32)
    image[:, 3] = 1
    mask = image[0].byte()
    made = Patches(
        TensorVolumes([image], [mask], (6, 32, 32)), None, 0, augment=True, spacing=(5, 0.5, 0.5)
    )
    for epoch in range(8):
        made.set_epoch(epoch)
        planes = made[0]["mask"].flatten(1).any(1)
        assert planes.sum() <= 2


@pytest.mark.parametrize("rank", [2, 3])
def test_sizes_stay_where_numbers_may_hang_on_them(rank: int) -> None:
    ball = torch.zeros((1, *(24,) * rank))
    box: Any = (0, *(slice(8, 16),) * rank)
    ball[box] = 1
    samples = Made([ball], [0])
    found = {}
    for zoom in (True, False):
        drawn = Patches(samples, None, 0, augment=True, zoom=zoom)
        sizes = []
        for epoch in range(30):
            drawn.set_epoch(epoch)
            image = drawn[0]["image"]
            middle = (image.min() + image.max()) / 2
            sizes.append(float((image > middle).sum()) / 8**rank)
        found[zoom] = np.std(sizes)
    assert found[False] < 0.5 * found[True]
