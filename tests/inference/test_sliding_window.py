import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from crossd.inference import sliding_window


def position_aware(x: Tensor) -> Tensor:
    """Answer that depends on where in its window a voxel lies, so that blending matters."""
    ramp = torch.linspace(0, 1, x.shape[2])[:, None, None] + torch.linspace(0, 1, x.shape[4])
    return torch.cat([x, x * ramp, 1 - x], 1)


SIDE, PATCH = st.integers(3, 17), st.integers(2, 8)


def joined(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """All slabs, which must follow each other without gap."""
    parts = list(sliding_window.slabs(position_aware, x, patch))
    starts = [start for start, _ in parts]
    ends = [start + found.shape[1] for start, found in parts]
    assert starts == [0, *ends[:-1]] and ends[-1] == x.shape[1]
    whole = torch.cat([found for _, found in parts], 1)
    assert whole.shape == (3, *x.shape[1:])
    return whole


@given(shape=st.tuples(SIDE, SIDE, SIDE), patch=st.tuples(PATCH, PATCH, PATCH))
@settings(deadline=None, max_examples=30)
def test_every_voxel_is_answered_once(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    x = torch.rand(1, *shape)
    torch.testing.assert_close(joined(x, patch)[0], x[0])


@given(shape=st.tuples(SIDE, SIDE, SIDE), patch=st.tuples(PATCH, PATCH, PATCH))
@settings(deadline=None, max_examples=30)
def test_slabs_are_what_monai_gives(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    x = torch.rand(1, *shape)
    expected = sliding_window_inference(
        x[None],
        patch,
        1,
        position_aware,
        overlap=sliding_window.OVERLAP,
        mode="gaussian",
        cval=float(x.min()),
    )
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(joined(x, patch), expected[0])


def test_flips_are_averaged_and_turned_back() -> None:
    net = nn.Conv3d(1, 2, 3, padding=1)
    x = torch.rand(1, 1, 6, 5, 4)
    answer = sliding_window.probabilities(net, flips=True)(x)
    mirrored = sliding_window.probabilities(net, flips=True)(x.flip(3)).flip(3)
    torch.testing.assert_close(answer, mirrored)
    single = sliding_window.probabilities(net)(x)
    torch.testing.assert_close(single, net(x).softmax(1))
    assert (answer - single).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(9, 8, 7), (3, 20, 4)])
def test_classes(shape: tuple[int, int, int]) -> None:
    x = torch.randn(1, *shape)

    class Signs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-x, x], 1)

    found = sliding_window.classes(Signs(), x, (4, 4, 4))
    assert found.dtype == torch.uint8
    assert torch.equal(found.bool(), x[0] > 0)


def test_no_more_than_a_window_of_planes_is_kept() -> None:
    largest = 0
    for _, found in sliding_window.slabs(
        lambda w: w.repeat(1, 50, 1, 1, 1), torch.rand(1, 64, 9, 9), (8, 9, 9)
    ):
        largest = max(largest, found.untyped_storage().nbytes())
    assert largest <= 50 * 8 * 81 * 4
