"""The training loop: what it learns, that it repeats, and that it can be interrupted."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import some
from made import Made, Stopping, assert_same, labelled, masked, tiny
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from crossd.cli.options import PretrainConfig
from crossd.conversion import heads, registry
from crossd.conversion.convert import convert
from crossd.conversion.plain import to_3d
from crossd.conversion.views import has_views, mixes_views
from crossd.data.opening import open_source
from crossd.data.slicing import as_images
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.inference.slice_ensemble import SliceNet
from crossd.nn import layers
from crossd.nn.conv import CrossDConv
from crossd.nn.views import current_view, view_is_set
from crossd.training import batches as training_batches
from crossd.training import loop, validate
from crossd.training.batches import ViewBatches
from crossd.training.loop import TrainConfig
from crossd.training.loss import loss_of
from crossd.utils.run_folder import CHECKPOINT, EARLIER_CHECKPOINT, LOG, STATUS

# --- batches and views --------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("counts", "size"), [((7, 3, 11), 4), ((1, 0, 0), 64), ((5, 5, 5), 5)])
def test_batches_hold_every_sample_once_and_views_side_by_side(
    counts: tuple[int, ...], size: int, apart: bool
) -> None:
    views = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], counts))
    sampler = ViewBatches(views, size, seed=0, apart=apart)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(itertools.chain(*batches)) == list(range(len(views)))
    for alike in [[b for b in batches if views[b[0]] == axis] for axis in range(3)] * apart or [
        batches
    ]:
        sizes = [len(b) for b in alike]
        assert not sizes or (max(sizes) <= size and max(sizes) - min(sizes) <= 1)
    for batch in batches:
        assert sorted(views[batch]) == list(views[batch])
        assert not apart or len(set(views[batch])) == 1
    assert apart or len(views) == 1 or any(len(set(views[batch])) > 1 for batch in batches)


def test_every_process_has_its_share_of_every_view() -> None:
    views = np.repeat([0, 1, 2], 8)
    parts = [next(iter(ViewBatches(views, 24, 0, (number, 2)))) for number in (0, 1)]
    assert [np.bincount(views[part]).tolist() for part in parts] == [[4, 4, 4]] * 2
    assert sorted(parts[0] + parts[1]) == list(range(24))


def test_the_order_is_drawn_by_seed_and_epoch() -> None:
    views = np.arange(30) % 3

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = ViewBatches(views, 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


@pytest.mark.parametrize("apart", [False, True])
def test_views_are_drawn_anew_for_every_image_and_epoch(apart: bool) -> None:
    own = np.zeros(60, np.int64)
    sampler = ViewBatches(own, 16, seed=0, apart=apart, drawn=True)
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 4
        assert sorted(itertools.chain(*batches)) == list(range(60))
        for batch in batches:
            assert sorted(sampler.views[batch]) == list(sampler.views[batch])
            assert len(set(sampler.views[batch])) == (1 if apart else 3)
        seen.append(sampler.views.tolist())
    assert len(set(map(tuple, seen))) == 3 and set(itertools.chain(*seen)) == {0, 1, 2}
    assert not own.any()
    sampler.set_epoch(1)
    assert list(sampler) and sampler.views.tolist() == seen[1]
    scored = ViewBatches(own, 16, None, drawn=True)
    assert list(scored) and scored.views is own


@pytest.mark.parametrize("slices", [False, True])
def test_wide_kernels_lie_as_what_they_are_trained_on_wants(
    slices: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "WIDE", 16)
    source = open_source(files.npz(tmp_path / "v.npz", (8, 8, 8)))
    if slices:
        source = as_images(source, None, None)
    net = convert(registry.build("resnet-small", "classification", 1, 2), "projection")
    net = loop.fit(net, source, TrainConfig(epochs=1, workers=0), validate=False).net
    found = {
        weight.shape[1]: weight.is_contiguous()
        for weight in net.parameters()
        if weight.dim() == 5 and weight.shape[1] > 1 and weight.shape[2] > 1
    }
    assert found and all(found[wide] != slices for wide in found if wide >= 16)


@pytest.mark.parametrize("views", ["own", "drawn"])
def test_a_network_is_trained_in_the_views_that_were_asked_for(
    views: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = as_images(open_source(files.npz(tmp_path / "v.npz", (8, 8, 8))), None, None)
    net = convert(registry.build("resnet-small", "classification", 1, 2), "projection")
    asked: list[list[int]] = []
    real = training_batches.view_of

    def spy(batch: Any, *rest: Any, **more: Any) -> Any:
        asked.append(batch["view"].tolist())
        return real(batch, *rest, **more)

    monkeypatch.setattr("crossd.training.loop.view_of", spy)
    config = TrainConfig(epochs=2, batch_size=54, views=views)
    loop.fit(net, source, config, validate=False)
    assert len(asked) == 4 and all(batch == sorted(batch) for batch in asked)
    counts = [np.bincount(np.concatenate(asked[i : i + 2]), minlength=3).tolist() for i in (0, 2)]
    assert (counts == [[36, 36, 36]] * 2) == (views == "own")


def test_without_a_seed_samples_stay_in_order() -> None:
    sampler = ViewBatches(np.zeros(7, np.int64), 3, None)
    assert list(sampler) == list(sampler) == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("mode", "one_view", "flat", "count"),
    [
        ("projection", False, False, 1),
        ("projection", True, False, 3),
        ("projection", False, True, 3),
        ("fourier", True, False, 1),
    ],
)
def test_batches_have_one_view_where_asked_or_where_the_network_needs_it(
    mode: str, one_view: bool, flat: bool, count: int
) -> None:
    samples = labelled(2, views=True).train
    config = TrainConfig(batch_size=12, one_view=one_view)
    net: Any = tiny(mode)
    assert has_views(net) == (mode != "fourier")
    if flat:
        net.append(CrossDConv(2, 2, (1, 3), depth_kernel_size=3, kernel_mode=mode))
        assert not mixes_views(net)
    loader = training_batches.batches(samples, net, config, train=True)
    assert len(loader) == count
    assert sum(len(batch["image"]) for batch in loader) == 12


def test_volumes_of_their_own_size_come_alone_outside_of_training() -> None:
    config = TrainConfig(batch_size=4)
    for source, size in ((masked(3), 1), (masked(2), 3), (labelled(3), 4)):
        net = tiny()
        sizes = [
            len(b["image"]) for b in training_batches.batches(source.val, net, config, train=False)
        ]
        assert max(sizes) == size


@pytest.mark.parametrize(
    ("mode", "rank", "views", "expected"),
    [
        ("projection", 2, [2, 2], 2),
        ("slice", 2, [1, 1], 1),
        ("projection", 2, [-1, -1], None),
        ("projection", 2, None, None),
        ("projection", 3, [2, 2], None),
        ("fourier", 2, [2, 2], None),
    ],
)
def test_the_view_is_set_where_it_is_known(
    mode: str, rank: int, views: list[int] | None, expected: int | None
) -> None:
    batch = {"image": torch.zeros(2, 1, *(4,) * rank)}
    if views is not None:
        batch["view"] = torch.tensor(views)
    with training_batches.view_of(batch, tiny(mode)):
        assert view_is_set() == (expected is not None)
        assert expected is None or current_view() == expected
    assert not view_is_set()


def test_networks_are_trained_measured_and_scored_in_the_view_of_their_images() -> None:
    """Every image says its own view by its value, and every layer must be in that view."""
    views = [i % 3 for i in range(12)]
    images = [torch.full((1, 6, 6), float(v)) + 0.1 * torch.randn(1, 6, 6) for v in views]
    made = Made(images, [i % 2 for i in range(12)], views=views)
    source = Source("made", 2, "classification", 1, ("a", "b"), (6, 6), made, made, made)
    net = tiny()
    entered: list[list[int]] = []
    seen: list[Any] = []
    net.register_forward_pre_hook(
        lambda _, arguments: entered.append(arguments[0].mean((1, 2, 3)).round().int().tolist())
    )
    for module in net.modules():
        if isinstance(module, CrossDConv):
            module.register_forward_pre_hook(
                lambda _, __: seen.append((entered[-1], current_view()))
            )
    config = TrainConfig(epochs=2, batch_size=4, augment="none")
    loop.fit(net, source, config)
    validate.recalibrate(net, made, config)
    validate.score(net, source, made, config)
    assert any(len(set(own)) == 3 for own, _ in seen)
    for own, given in seen:
        assert own == (list(given) if isinstance(given, tuple) else [given] * len(own))
    # two layers; three batches in two epochs of training and of validation, and twice more
    assert len(seen) == 2 * 3 * (2 + 2 + 1 + 1)


# --- augmentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(28, 30), (28, 14, 30), (8, 8)])
def test_augmentation_keeps_shapes_and_is_drawn_by_the_generator(sides: tuple[int, ...]) -> None:
    image = torch.randn(3, 2, *sides)
    mask = torch.randint(0, 4, (3, *sides))

    def draw(seed: int) -> tuple[Tensor, Tensor | None]:
        torch.manual_seed(seed)
        return training_batches.augment(image, mask)

    changed, moved = draw(0)
    assert moved is not None
    assert changed.shape == image.shape and changed.dtype == image.dtype
    assert moved.shape == mask.shape and moved.dtype == mask.dtype
    assert_same((changed, moved), draw(0))
    assert not torch.equal(changed, draw(1)[0])
    assert not torch.equal(changed, image)
    assert training_batches.augment(image, None)[1] is None


@pytest.mark.parametrize("rank", [2, 3])
def test_the_mask_moves_with_the_image(rank: int) -> None:
    mask = torch.zeros(2, *(28,) * rank, dtype=torch.long)
    mask[(slice(None), *(slice(5, 12),) * rank)] = 1
    places = set()
    for _ in range(10):
        image, moved = training_batches.augment(100.0 * mask[:, None], mask)
        assert moved is not None
        assert torch.equal(image[:, 0] > 50, moved == 1)
        places.add(tuple(moved.nonzero()[0].tolist()[1:]))
    assert len(places) > 3
    assert all(3 <= p <= 7 for place in places for p in place)  # a fourteenth of 28 is 2


# --- losses, schedule, last layers --------------------------------------------------------------


def test_the_loss_of_labels_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = F.cross_entropy(logits, labels)
    assert_same(loss_of("classification")(logits, labels), expected)


@pytest.mark.parametrize("rank", [2, 3])
def test_the_loss_of_masks_is_cross_entropy_and_dice(rank: int) -> None:
    logits = torch.randn(2, 3, *(4,) * rank, requires_grad=True)
    mask = torch.randint(0, 3, (2, *(4,) * rank))
    loss = loss_of("segmentation")(logits, mask)
    p, truth = logits.softmax(1), F.one_hot(mask, 3).movedim(-1, 1).float()
    axes = tuple(range(2, rank + 2))
    parts = (2 * (p * truth).sum(axes) + 1e-5) / ((p + truth).sum(axes) + 1e-5)
    torch.testing.assert_close(loss, 1 - parts.mean() + F.cross_entropy(logits, mask))
    loss.backward()
    assert logits.grad is not None and bool(logits.grad.abs().sum() > 0)


def test_deep_supervision_is_weighted_by_halves() -> None:
    heads = torch.randn(2, 3, 4, 5, 5)  # (n, heads, classes, h, w)
    mask = torch.randint(0, 4, (2, 5, 5))
    one = DiceCELoss(to_onehot_y=True, softmax=True)
    each = [one(heads[:, i], mask[:, None]) for i in range(3)]
    expected = (each[0] + 0.5 * each[1] + 0.25 * each[2]) / 1.75
    torch.testing.assert_close(loss_of("segmentation")(heads, mask), expected)


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    rate = loop._schedule(100, TrainConfig(warmup=0.1))
    rates = [rate(step) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)
    assert 0 < rates[99] < 1e-3
    assert loop._schedule(1, TrainConfig())(0) == 1


def test_the_optimiser_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = TrainConfig(epochs=3, min_steps=20, batch_size=4, lr=0.01)
    fit = loop.fit(tiny(), labelled(2), config, validate=False)
    assert len(fit.history) == 7  # of three steps: the first epoch with which there are 20
    factor = loop._schedule(21, config)
    assert rates == pytest.approx([0.01 * factor(i) for i in range(21)])
    assert (fit.best, fit.state) == (-math.inf, None)


def test_defaults_of_2d_training_are_those_of_the_task() -> None:
    options = PretrainConfig(batch_size=5, seed=3, workers=1, precision="bf16-mixed")
    labels, masks = (loop.for_images(options, task) for task in ("classification", "segmentation"))
    assert (labels.epochs, labels.lr, labels.min_steps) == (8, 1e-2, 100)
    assert (masks.epochs, masks.lr, masks.min_steps) == (2, 3e-3, 600)
    shared = (labels.batch_size, labels.seed, labels.workers, labels.precision)
    assert shared == (5, 3, 1, "bf16-mixed")
    given = loop.for_images(PretrainConfig(epochs=2, lr=0.5), "segmentation")
    assert (given.epochs, given.lr, given.min_steps) == (2, 0.5, 0)
    assert given.batch_size == 16


RESNET_NORMS = (
    *("1", "3.bn1", "3.bn2", "4.bn1", "4.bn2", "4.downsample.1"),
    *("5.bn1", "5.bn2", "5.downsample.1"),
)
SEGRESNET_NORMS = (
    *(f"down_layers.{i}.1.norm{j}" for i in (0, 1, 2) for j in (1, 2)),
    *(f"up_layers.{i}.0.norm{j}" for i in (0, 1) for j in (1, 2)),
    "conv_final.0",
)


@pytest.mark.parametrize("form", some(["2d", "cross", "3d"], ["cross"]))
@pytest.mark.parametrize(
    ("name", "task", "free"),
    [
        ("resnet-small", "classification", (*RESNET_NORMS, "8")),
        ("segresnet-small", "segmentation", (*SEGRESNET_NORMS, "conv_final.2.conv")),
    ],
)
def test_probing_trains_norms_and_the_last_layer(
    name: str, task: str, free: tuple[str, ...], form: str
) -> None:
    net = registry.build(name, task, 1, 3)
    net = net if form == "2d" else convert(net)
    net = to_3d(net) if form == "3d" else net
    heads.freeze_convolutions(net, 3)
    trained = {key for key, p in net.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.{kind}" for layer in free for kind in ("weight", "bias")}


def test_frozen_weights_stay() -> None:
    net = tiny()
    heads.freeze_convolutions(net, 2)
    before = {k: v.clone() for k, v in net.named_parameters()}
    loop.fit(net, labelled(3), TrainConfig(epochs=2, batch_size=6), validate=False)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("name", ["segresnet-small", "segresnet", "basicunet", "dynunet"])
def test_the_last_layer_of_every_network_for_masks(name: str) -> None:
    """Also where layers inside have as many outputs as there are classes."""
    classes = 32 if name in ("basicunet", "dynunet") else 16
    net = registry.build(name, "segmentation", 1, classes).eval()
    x = torch.randn(1, 1, 32, 32)
    heads.new_classifier(net, classes, 5)
    assert net(x).shape == (1, 5, 32, 32)
    assert heads.classifier(net, 5) is not None


def test_a_new_last_layer_is_small_and_even() -> None:
    net = registry.build("resnet-small", "classification", 1, 4)
    heads.new_classifier(net, 4, 9)
    last = heads.classifier(net, 9)
    assert isinstance(last, nn.Linear)
    assert (last.out_features, last.weight.shape) == (9, (9, 96))
    assert not last.bias.any() and 0 < float(last.weight.detach().abs().max()) <= 96**-0.5
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 9)
    volumes = SliceNet(net)
    heads.new_classifier(volumes, 9, 2)
    assert volumes(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 2)


def test_a_last_layer_that_cannot_change() -> None:
    net = registry.build("unet", "segmentation", 1, 3)
    with pytest.raises(InputError, match="number of classes cannot change from 3 to 5"):
        heads.new_classifier(convert(net), 3, 5)


def test_a_network_without_a_last_layer() -> None:
    with pytest.raises(InputError, match="no last layer with 7 outputs"):
        heads.classifier(tiny(), 7)


# --- fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_labels_are_learnt(mode: str, rank: int) -> None:
    source, net = labelled(rank), tiny(mode)
    fit = loop.fit(net, source, TrainConfig(epochs=10, batch_size=4, lr=0.02))
    losses = [record["loss"] for record in fit.history]
    assert [record["epoch"] for record in fit.history] == list(range(1, 11))
    assert losses[-1] < 0.5 * losses[0]
    assert validate.score(net, source, source.test, TrainConfig())[0]["accuracy"] == 1


@pytest.mark.parametrize("rank", some([2, 3], [3]))
def test_masks_are_learnt(rank: int) -> None:
    source = masked(rank)
    net = convert(registry.build("segresnet-small", "segmentation", 1, 2))
    fit = loop.fit(net, source, TrainConfig(epochs=8, batch_size=3))
    losses = [record["loss"] for record in fit.history]
    assert losses[-1] < 0.6 * losses[0]
    assert validate.score(net, source, source.test, TrainConfig())[0]["dice"] > 0.9


def test_the_best_weights_are_kept() -> None:
    source, net = labelled(2), tiny()
    config = TrainConfig(epochs=4, batch_size=6, lr=0.3)
    fit = loop.fit(net, source, config)
    assert fit.state is not None
    scores = [record["val"]["accuracy"] for record in fit.history]
    assert fit.best == max(scores)
    net.load_state_dict(fit.state)
    assert validate.score(net, source, source.val, config)[0]["accuracy"] == fit.best


def test_the_best_weights_are_those_of_their_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.2, 0.9, 0.9, 0.1])
    states: list[dict[str, Tensor]] = []

    def score(net: nn.Module, *_: Any) -> tuple[dict[str, float], list[Any]]:
        states.append(copy.deepcopy(net.state_dict()))
        return {"auc": next(values), "accuracy": 0.5}, []

    monkeypatch.setattr(loop, "score", score)
    fit = loop.fit(tiny(), labelled(2), TrainConfig(epochs=4))
    assert fit.best == 0.9 and fit.state is not None
    assert_same(dict(fit.state), dict(states[1]))


@pytest.mark.parametrize("mode", ["projection", "fourier"])
def test_the_same_seed_gives_the_same_bits(mode: str) -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], list[Any]]:
        net = tiny(mode, dropout=0.2)
        fit = loop.fit(net, labelled(2), TrainConfig(epochs=3, batch_size=5, seed=seed))
        return dict(net.state_dict()), fit.history

    first = run(0)
    torch.manual_seed(99)
    torch.rand(7)
    assert_same(run(0), first)
    assert not torch.equal(run(1)[0]["0.weight"], first[0]["0.weight"])


@pytest.mark.parametrize(
    "kind", some(["images", "views", "fourier", "volumes", "masks"], ["images", "volumes"])
)
def test_interrupted_and_resumed_equals_undisturbed(tmp_path: Path, kind: str) -> None:
    if kind == "masks":
        source = masked(2)
    else:
        source = labelled(3 if kind == "volumes" else 2, views=kind == "views")
    config = TrainConfig(epochs=4, batch_size=4, seed=5)

    def new() -> nn.Module:
        if kind == "masks":
            torch.manual_seed(0)
            return convert(registry.build("segresnet-small", "segmentation", 1, 2))
        return tiny("fourier" if kind == "fourier" else "projection", dropout=0.1)

    whole = new()
    expected = loop.fit(whole, source, config)
    steps = len(training_batches.batches(source.train, whole, config, train=True))
    for stop in (steps + 1, 2 * steps):  # in the second epoch, and at the end of the third
        net = new()
        resume = (tmp_path / CHECKPOINT).is_file()
        with pytest.raises(KeyboardInterrupt):
            progress = Stopping(stop)
            loop.fit(net, source, config, folder=tmp_path, resume=resume, progress=progress)
    torch.manual_seed(99)
    net = new()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    fit = loop.fit(net, source, config, folder=tmp_path, resume=True)
    assert fit.history == expected.history
    assert fit.best == expected.best
    assert_same(dict(net.state_dict()), dict(whole.state_dict()))
    assert fit.state is not None and expected.state is not None
    assert_same(dict(fit.state), dict(expected.state))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {CHECKPOINT, EARLIER_CHECKPOINT, LOG, STATUS}


def test_two_sources_go_on_in_the_middle_of_an_epoch_each_with_its_own_statistics(
    tmp_path: Path,
) -> None:
    config = TrainConfig(epochs=2, batch_size=3, seed=1, checkpoint_minutes=1e-9)
    images, volumes = labelled(2), labelled(3)

    def run(folder: Path, **more: Any) -> dict[str, Tensor]:
        net = tiny()
        beside = [(images, config)]
        loop.fit(net, volumes, config, beside=beside, folder=folder, validate=False, **more)
        return dict(net.state_dict())

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stopping(3))  # after a turn of both, of which it kept a checkpoint
    assert_same(run(tmp_path, resume=True), run(tmp_path / "whole"))


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    net, source, config = tiny(), labelled(2), TrainConfig(epochs=2)
    first = loop.fit(net, source, config, folder=tmp_path)
    before = copy.deepcopy(dict(net.state_dict()))
    again = loop.fit(net, source, config, folder=tmp_path, resume=True)
    assert again.history == first.history
    assert_same(dict(net.state_dict()), before)


def test_resuming_starts_where_there_is_nothing(tmp_path: Path) -> None:
    first = loop.fit(tiny(), labelled(2), TrainConfig(epochs=1), folder=tmp_path, resume=True)
    assert first.history == loop.fit(tiny(), labelled(2), TrainConfig(epochs=1)).history
    assert loop.fit(tiny(), labelled(2), TrainConfig(epochs=1), resume=True).history


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    loop.fit(tiny(), labelled(2), TrainConfig(epochs=1), folder=tmp_path)
    content = path.read_bytes()
    other = registry.build("resnet-small", "classification", 1, 2)
    for net, text in ((other, content), (tiny(), content[:1000]), (tiny(), b"no checkpoint")):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"does not fit this run|is damaged") as caught:
            loop.fit(net, labelled(2), TrainConfig(), folder=tmp_path, resume=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number(bad: float) -> None:
    what = r"^loss is nan in epoch 1 of odd, on sample .*: lower --lr \(=0.003\)"
    with pytest.raises(InputError, match=what):
        loop.fit(tiny(), labelled(2, bad=bad), TrainConfig(), name="odd")


def test_batches_that_are_too_small() -> None:
    net = registry.build("dynunet", "segmentation", 1, 2)
    with pytest.raises(InputError, match=r"cannot be trained on a batch of shape \(3, 1, 8, 8\) "):
        loop.fit(net, masked(2), TrainConfig(batch_size=3))


def test_every_epoch_has_an_order_of_its_own() -> None:
    made = Made([torch.full((1, 4, 4), float(i)) for i in range(12)], [i % 2 for i in range(12)])
    source = Source("made", 2, "classification", 1, ("a", "b"), (4, 4), made, made, made)
    net = tiny()
    seen: list[float] = []
    net.register_forward_pre_hook(lambda _, given: seen.extend(given[0][:, 0, 0, 0].tolist()))
    config = TrainConfig(epochs=3, batch_size=4, augment="none")
    loop.fit(net, source, config, validate=False)
    orders = [seen[i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_mixed_precision_trains() -> None:
    net, source = tiny(), labelled(2)
    config = TrainConfig(epochs=2, precision="bf16-mixed")
    fit = loop.fit(net, source, config)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert math.isfinite(fit.history[-1]["loss"])


# --- score, answers, recalibrate ----------------------------------------------------------------


def test_answers_come_in_order_and_leave_the_mode_alone() -> None:
    source, net = labelled(2, views=False), tiny()
    for training in (True, False):
        net.train(training)
        before = copy.deepcopy(dict(net.state_dict()))
        found = list(validate.answers(net, source.test, TrainConfig(batch_size=5), source.task))
        assert net.training is training
        assert_same(dict(net.state_dict()), before)
        assert [len(p) for p, _ in found] == [4, 4, 4]
        probabilities = torch.cat([p for p, _ in found])
        torch.testing.assert_close(probabilities.sum(1), torch.ones(12))
        assert torch.cat([b["label"] for _, b in found]).tolist() == [0, 1] * 6
        net.eval()
        images = torch.stack([source.test[i]["image"] for i in range(12)])
        torch.testing.assert_close(probabilities, net(images).softmax(1).detach())


def test_scores_of_labels() -> None:
    source = labelled(3)
    scores, (probabilities, labels) = validate.score(tiny(), source, source.test, TrainConfig())
    assert {"accuracy", "auc"} < set(scores)
    assert probabilities.shape == (12, 2) and labels.tolist() == [0, 1] * 6
    accuracy = (probabilities.argmax(1) == labels).float().mean()
    assert scores["accuracy"] == pytest.approx(float(accuracy))


def test_scores_of_masks_of_several_sizes() -> None:
    small, large = masked(3, 2), masked(3, 1, side=16)
    assert isinstance(small.test, Made) and isinstance(large.test, Made)
    assert small.test.masks is not None and large.test.masks is not None
    both = Made(small.test.images + large.test.images, masks=small.test.masks + large.test.masks)

    class Truth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-x, x], 1)

    scores, (dice,) = validate.score(Truth(), small, both, TrainConfig())
    assert dice.shape == (3, 1)
    assert scores == {"dice": pytest.approx(1, abs=0.1), "dice_box": scores["dice"]}


@pytest.mark.parametrize("rank", [2, 3])
def test_recalibration_is_the_mean_over_batches_of_what_each_layer_gets(rank: int) -> None:
    source, net = labelled(rank), tiny(dropout=0.5)
    norms: list[Any] = [net[1], net[4]]  # type: ignore[index]
    norms[1].momentum = 0.3
    for norm in norms:
        norm.running_mean.fill_(7)
        norm.running_var.fill_(7)
        nn.init.normal_(norm.weight)
    parameters = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.eval()
    count = validate.recalibrate(net, source.train, TrainConfig(batch_size=4))
    assert count == 2

    means: list[list[Tensor]] = [[], []]
    variances: list[list[Tensor]] = [[], []]
    axes = (0, *range(2, rank + 2))
    with torch.no_grad():
        for start in range(0, 12, 4):
            x = torch.stack([source.train[i]["image"] for i in range(start, start + 4)])
            for i, norm in enumerate(norms):
                x = net[3 * i](x)  # type: ignore[index]
                means[i].append(x.mean(axes))
                variances[i].append(x.var(axes))
                mean, var = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, correction=0)
                shape = (1, -1) + (1,) * rank
                x = (x - mean) / (var + norm.eps).sqrt()
                x = (x * norm.weight.view(shape) + norm.bias.view(shape)).relu()
    for i, norm in enumerate(norms):
        torch.testing.assert_close(norm.running_mean, torch.stack(means[i]).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack(variances[i]).mean(0))

    assert [norm.momentum for norm in norms] == [0.1, 0.3]
    assert not any(module.training for module in net.modules())
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
        assert parameter.grad is None
    net.train()
    validate.recalibrate(net, source.train, TrainConfig())
    assert all(module.training for module in net.modules())


def test_there_may_be_nothing_to_recalibrate() -> None:
    net = registry.build("segresnet-small", "segmentation", 1, 2)
    before = copy.deepcopy(dict(net.state_dict()))
    assert validate.recalibrate(net, masked(2).train, TrainConfig()) == 0
    assert_same(dict(net.state_dict()), before)


def test_scores_in_words() -> None:
    assert validate.describe({"accuracy": 0.5, "auc": 1}, "classification") == (
        "auc 1.000, accuracy 0.500"
    )
    assert validate.describe({"dice": 0.25, "dice_a": 0.25}, "segmentation") == "dice 0.250"


@pytest.mark.parametrize("rank", [2, 3])
def test_classes_are_taken_of_every_head(rank: int) -> None:
    maps = torch.randn(2, 4, *(5, 6, 7)[:rank])
    rows, axes = slice(1, 3), rank + 2
    torch.testing.assert_close(loop._rows(maps, rows, axes), maps[:, 1:3])
    several = loop._rows([maps, maps[..., ::2]], rows, axes)
    assert [part.shape for part in several] == [maps[:, 1:3].shape, maps[:, 1:3, ..., ::2].shape]
    stacked = loop._rows(torch.stack([maps, maps + 1], 1), rows, axes)
    torch.testing.assert_close(stacked, torch.stack([maps[:, 1:3], maps[:, 1:3] + 1], 1))


@pytest.mark.parametrize("rank", [2, 3])
def test_heads_of_coarser_resolution_are_weighted_by_halves(rank: int) -> None:
    torch.manual_seed(0)
    mask = torch.randint(0, 3, (2, *(8,) * rank))
    fine, coarse = torch.randn(2, 3, *(8,) * rank), torch.randn(2, 3, *(4,) * rank)
    loss = loss_of("segmentation")
    mode = "bilinear" if rank == 2 else "trilinear"
    enlarged = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode=mode)
    expected = (loss(fine, mask) + 0.5 * loss(enlarged, mask)) / 1.5
    torch.testing.assert_close(loss([fine, coarse], mask), expected)
    torch.testing.assert_close(loss(torch.stack([fine, enlarged], 1), mask), expected)


@pytest.mark.parametrize("epochs", [1, 2, 25, 26, 60, 1000])
def test_validations_are_few_and_the_last_epoch_has_one(epochs: int) -> None:
    chosen = [epoch for epoch in range(epochs) if loop._is_validated(epoch, epochs)]
    assert chosen[0] == 0 and chosen[-1] == epochs - 1
    assert min(epochs, loop.VALIDATIONS) / 2 < len(chosen) <= loop.VALIDATIONS + 1


def test_patches_that_a_network_cannot_halve_are_an_error_that_says_so() -> None:
    net = to_3d(convert(registry.build("segresnet-small", "segmentation", 1, 2)))
    with pytest.raises(InputError, match=r"batch of shape \(1, 1, 10, 7, 9\) .* multiples of 16"):
        loop._logits(net, torch.zeros(1, 1, 10, 7, 9))
