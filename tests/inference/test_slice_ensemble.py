"""The 2D network on slices, against loops over volumes, axes and slices."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossd import convert, to_3d, view
from crossd.errors import InputError
from crossd.inference.slice_ensemble import Both, SliceNet, answering
from crossd.tasks import TASKS, task_of


@pytest.fixture
def classifier() -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


@pytest.fixture
def segmenter() -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    return nn.Sequential(*layers).eval()


def answers(net: nn.Module, volume: Tensor, places: dict[int, list[int]]) -> list[Tensor]:
    """Ask about the slices of one volume ``(C, D, H, W)`` one by one: logits ``(K,)`` each."""
    each = [volume.select(1 + axis, p) for axis in places for p in places[axis]]
    return [net(image[None])[0] for image in each]


# Evenly spaced, borders left out: size * (i + 1) // (count + 1) of the sizes 8, 9 and 10.
PLACES = {
    1: {0: [4], 1: [4], 2: [5]},
    3: {0: [2, 4, 6], 1: [2, 4, 6], 2: [2, 5, 7]},
    0: {0: list(range(8)), 1: list(range(9)), 2: list(range(10))},
}


@pytest.mark.parametrize("count", PLACES)
def test_classes_equal_loops(classifier: nn.Module, count: int) -> None:
    volumes = torch.randn(3, 2, 8, 9, 10)
    net: Any = SliceNet(classifier, count)
    loops = [torch.stack(answers(classifier, v, PLACES[count])) for v in volumes]
    expected = torch.stack([logits.softmax(1).mean(0) for logits in loops])
    torch.testing.assert_close(net(volumes).softmax(1), expected)
    torch.testing.assert_close(net(volumes), expected.log())
    net.average = "logits"
    torch.testing.assert_close(net(volumes), torch.stack([x.mean(0) for x in loops]))


def test_masks_equal_loops(segmenter: nn.Module) -> None:
    volumes = torch.randn(2, 2, 5, 6, 7)
    expected = torch.zeros(2, 3, 5, 6, 7)
    for n, volume in enumerate(volumes):
        for axis in range(3):
            for place in range(volume.shape[1 + axis]):
                logits = segmenter(volume.select(1 + axis, place)[None])[0]
                expected[n].select(1 + axis, place).add_(logits.softmax(0) / 3)
    net: Any = SliceNet(segmenter, count=0)
    torch.testing.assert_close(net(volumes), expected.log())
    net.average = "logits"
    torch.testing.assert_close(net(volumes), expected.log())


def test_masks_need_all_slices(segmenter: nn.Module) -> None:
    with pytest.raises(ValueError, match="every slice"):
        SliceNet(segmenter, count=3)(torch.randn(2, 2, 8, 8, 8))


def test_images_pass_through(classifier: nn.Module) -> None:
    images = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(SliceNet(classifier)(images), classifier(images))
    with pytest.raises(ValueError, match="SliceNet takes images"):
        SliceNet(classifier)(images[0])


def test_samples_do_not_mix(classifier: nn.Module) -> None:
    volumes, net = torch.randn(3, 2, 8, 8, 8), SliceNet(classifier)
    torch.testing.assert_close(net(volumes[1:2]), net(volumes)[1:2])


def test_the_mean_of_logits_is_a_linear_head_on_pooled_features(classifier: nn.Module) -> None:
    volumes, net = torch.randn(2, 2, 8, 9, 10), SliceNet(classifier)
    net.average = "logits"
    layers: Any = classifier
    features = [torch.stack(answers(layers[:-1], v, PLACES[3])).mean(0) for v in volumes]
    torch.testing.assert_close(net(volumes), layers[-1](torch.stack(features)))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_gradients_reach_every_weight(classifier: nn.Module, average: str) -> None:
    net = SliceNet(classifier)
    net.average = average
    nn.functional.cross_entropy(net(torch.randn(2, 2, 8, 8, 8)), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_certain_answers_stay_finite(classifier: nn.Module) -> None:
    layers: Any = classifier
    layers[-1].bias.data = torch.tensor([200.0, 0.0, -200.0])
    assert SliceNet(classifier)(torch.randn(1, 2, 8, 8, 8)).isfinite().all()


def test_batch_norms_see_the_mixture_of_the_views_of_a_cube() -> None:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inner = nn.Sequential(*layers).train()
    volumes = torch.randn(2, 1, 8, 8, 8) * torch.arange(1, 9.0).view(8, 1, 1)
    images = [volumes.select(2 + axis, 4) for axis in range(3)]
    expected = inner(torch.cat(images)).unflatten(0, (3, 2)).mean(0)
    net = SliceNet(inner, count=1)
    net.average = "logits"
    torch.testing.assert_close(net(volumes), expected)


@pytest.mark.parametrize("task", TASKS)
def test_both_is_the_mean_of_what_the_volume_and_its_slices_say(
    task: str, classifier: nn.Module, segmenter: nn.Module
) -> None:
    masks, said = task_of(task).masks, task_of(task).said
    net = convert(segmenter if masks else classifier, "projection", None)
    volumes = torch.randn(2, 2, 8, 9, 10)
    solid, flat = to_3d(net)(volumes), answering(net, "slices", task)(volumes)
    both: Any = answering(net.eval(), "both", task)
    torch.testing.assert_close(said(both(volumes)), (said(solid) + said(flat)) / 2)
    if not masks:
        both.average = "logits"
        each: Any = answering(net, "slices", task)
        each.average = "logits"
        torch.testing.assert_close(both(volumes), (solid + each(volumes)) / 2)
    assert {id(p) for p in both.parameters()} == {id(p) for p in net.parameters()}
    assert answering(net, "volume", task) is net


def test_both_gives_images_to_the_network(classifier: nn.Module) -> None:
    net = convert(classifier).eval()
    images = torch.randn(3, 2, 8, 8)
    with view("coronal"):
        torch.testing.assert_close(Both(net)(images), net(images))


@pytest.mark.parametrize(
    ("form", "answer", "message"),
    [
        ("3d", "slices", "--answer slices is for networks that take images"),
        ("3d", "both", "--answer both is for networks that take images; this does not"),
        ("2d", "both", "--answer both is for networks that take volumes; this does not"),
        ("2d", "all", "--answer .='all'. must be one of volume, orientations, slices, both"),
    ],
)
def test_networks_that_cannot_answer_so_are_refused(
    form: str, answer: str, message: str, classifier: nn.Module
) -> None:
    net = classifier if form == "2d" else to_3d(convert(classifier))
    with pytest.raises(InputError, match=message):
        answering(net, answer, "classification")
