"""The loss over known voxels is the loss of a batch that has no others."""

import pytest
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceCELoss
from torch import Tensor

from crossd.data.io.agreement import IGNORED
from crossd.training.loss import loss_of


def slow(logits: Tensor, mask: Tensor) -> Tensor:
    """Gather the known voxels of every sample, and lay them in a row."""
    dices, entropies, count = [], [], 0
    for own, truth in zip(logits, mask, strict=True):
        known = truth != IGNORED
        if not known.any():
            continue
        row, classes = own[:, known], truth[known]
        p, one = row.softmax(0), F.one_hot(classes, len(own)).T
        parts = (2 * (p * one).sum(1) + 1e-5) / ((p + one).sum(1) + 1e-5)
        dices.append(1 - parts.mean())
        entropies.append(F.cross_entropy(row.T, classes, reduction="sum"))
        count += len(classes)
    return torch.stack(dices).mean() + torch.stack(entropies).sum() / count


def partly(rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, *(6,) * rank, generator=generator, dtype=torch.float64)
    mask = torch.randint(0, 4, (3, *(6,) * rank), generator=generator)
    mask[0, ::2] = IGNORED
    mask[1] = torch.where(torch.rand(mask[1].shape, generator=generator) < 0.9, IGNORED, mask[1])
    return logits, mask


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("nothing", [False, True], ids=["partly", "one without any"])
def test_it_is_the_loss_over_known_voxels(rank: int, nothing: bool) -> None:
    logits, mask = partly(rank)
    if nothing:
        mask[2] = IGNORED
    logits.requires_grad_()
    loss = loss_of("segmentation", partial=True)(logits, mask)
    torch.testing.assert_close(loss, slow(logits, mask))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(slow(logits, mask), logits)[0])
    unknown = (mask == IGNORED)[:, None].expand_as(gradient)
    assert not gradient[unknown].any() and gradient[~unknown].all()


def test_what_is_not_known_does_not_matter() -> None:
    logits, mask = partly(3)
    other = torch.where((mask == IGNORED)[:, None], 100 * torch.randn_like(logits), logits)
    loss = loss_of("segmentation", partial=True)
    assert torch.equal(loss(logits, mask), loss(other, mask))


@pytest.mark.parametrize("rank", [2, 3])
def test_where_all_is_known_it_is_the_loss_of_monai(rank: int) -> None:
    logits, mask = partly(rank)
    mask[mask == IGNORED] = 1
    whole = DiceCELoss(to_onehot_y=True, softmax=True)(logits, mask[:, None])
    torch.testing.assert_close(loss_of("segmentation", partial=True)(logits, mask), whole)
    assert torch.equal(loss_of("segmentation")(logits, mask), whole)


@pytest.mark.parametrize("rank", [2, 3])
def test_coarser_heads_of_deep_supervision(rank: int) -> None:
    logits, mask = partly(rank)
    coarse = F.avg_pool2d(logits, 2) if rank == 2 else F.avg_pool3d(logits, 2)
    mode = "bilinear" if rank == 2 else "trilinear"
    fine = F.interpolate(coarse, size=mask.shape[1:], mode=mode)
    expected = (slow(logits, mask) + 0.5 * slow(fine, mask)) / 1.5
    torch.testing.assert_close(
        loss_of("segmentation", partial=True)([logits, coarse], mask), expected
    )


def test_a_batch_of_which_nothing_is_known_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = loss_of("segmentation", partial=True)(logits, torch.full((2, 4, 4), IGNORED))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()
