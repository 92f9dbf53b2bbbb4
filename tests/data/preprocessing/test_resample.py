import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crossd.data.preprocessing import resample

SIDES = st.integers(1, 24)


@given(have=st.tuples(SIDES, SIDES, SIDES), factor=st.floats(0.7, 3.0))
@settings(deadline=None)
def test_finer_grids_are_as_torch_interpolates(have: tuple[int, int, int], factor: float) -> None:
    sides = [max(1, round(n * factor)) for n in have]
    if any(n >= resample.COARSER * m for n, m in zip(have, sides, strict=True)):
        return
    x = torch.rand(2, *have)
    expected = F.interpolate(x[None], size=sides, mode="trilinear")[0]
    torch.testing.assert_close(resample.image(x, sides), expected, atol=1e-5, rtol=0)


@given(have=st.tuples(SIDES, SIDES), factor=st.integers(2, 5))
@settings(deadline=None)
def test_coarser_grids_are_averages(have: tuple[int, int], factor: int) -> None:
    x = torch.rand(1, have[0] * factor, have[1] * factor)
    expected = F.adaptive_avg_pool2d(x[None], have)[0]
    torch.testing.assert_close(resample.image(x, have), expected, atol=1e-5, rtol=0)


@given(source=SIDES, target=SIDES)
@settings(deadline=None)
def test_single_positions_agree_with_whole_axes(source: int, target: int) -> None:
    rows = resample.matrix(source, target)
    torch.testing.assert_close(rows.sum(1), torch.ones(target))
    x = torch.rand(1, source)
    torch.testing.assert_close(resample.image(x, (target,)), x @ rows.T)
    nearest = [resample.nearest(source, target, p) for p in range(target)]
    assert resample.mask(torch.arange(source), (target,)).tolist() == nearest
    for position, found in enumerate(nearest):  # the centre lies in that voxel
        assert found <= (position + 0.5) * source / target <= found + 1


def test_masks_take_the_nearest_voxel() -> None:
    mask = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    assert torch.equal(resample.mask(mask, (4, 3, 2)), mask.repeat_interleave(2, 0)[:, :, 1::2])


@pytest.mark.parametrize(("own", "size"), [((1.0, 1, 1), (8, 9, 10)), ((2.0, 1, 0.5), (16, 9, 5))])
def test_target_size(own: tuple[float, float, float], size: tuple[int, ...]) -> None:
    from pathlib import Path

    from crossd.data.io.header import Header

    z, y, x = own
    header = Header(Path("a"), (10, 9, 8), np.diag([x, y, z, 1.0]))
    assert resample.target_size(header, (1.0, 1.0, 1.0)) == size
    nearly = np.diag([1.005, 1.0, 0.995, 1.0])
    assert resample.target_size(Header(Path("a"), (300, 9, 300), nearly), (1.0, 1, 1)) == (
        300,
        9,
        300,
    )
