"""The check of conversions: no value of a weight decides anything, and what breaks is named."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers import keeps_the_law, repeat_along, settle, some
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.checking import examples, law

convert: Callable[..., Any] = crossd.convert


MODES = ["projection", "slice", "fourier", "fourier-projection"]


@pytest.mark.parametrize("mode", some(MODES, MODES[::2]))
def test_it_says_what_it_found(mode: str) -> None:
    net = convert(timm.create_model("resnet10t", num_classes=3), mode)
    said = net.conversion.checks
    assert said[0] == "14 of 14 convolutions see depth" and said[1] == "depth follows the plane"
    assert float(said[2].rpartition(" ")[2]) < 1e-4
    assert "(views: axial, coronal, sagittal)" in said[3]
    assert convert(timm.create_model("resnet10t"), check=False).conversion.checks == ()


def test_networks_and_the_random_state_are_left_alone() -> None:
    source: Any = timm.create_model("resnet10t", num_classes=3).train()
    source.bn1.eval()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    modes = [m.training for m in source.modules()]
    torch.manual_seed(0)
    convert(source, check=False)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    net = convert(source)
    assert torch.equal(torch.random.get_rng_state(), state), "the check draws numbers of its own"
    torch.testing.assert_close(source.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in source.modules()] == modes
    named = dict(net.named_modules())
    assert all(named[n].training == m.training for n, m in source.named_modules())
    assert all(p.grad is None for p in (*source.parameters(), *net.parameters()))


# Values of weights decide nothing


class Centre(nn.Module):
    """Subtracts the mean of the plane, behind a gate that is closed at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * (x - x.mean((2, 3), keepdim=True))


class Wrong(nn.Module):
    """Mixes the samples of a batch, behind a gate that is closed at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * x.cumsum(0)


def test_what_a_closed_gate_hides_is_seen() -> None:
    net = convert(nn.Sequential(nn.Conv2d(3, 4, 3), Centre(), nn.Conv2d(4, 2, 1)))
    keeps_the_law(settle(net), torch.randn(2, 3, 12, 16))
    match = "the law is broken in the axial view.*first to differ.* is layer '1' of type .*Wrong"
    with pytest.raises(InputError, match=match):
        convert(nn.Sequential(nn.Conv2d(3, 4, 3), Wrong(), nn.Conv2d(4, 2, 1)))


def test_a_network_that_was_saved_is_the_one_that_is_loaded(tmp_path: Any) -> None:
    options: Any = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}
    source = settle(timm.create_model("convnextv2_atto", num_classes=3, in_chans=1, **options))
    net = convert(source).eval()
    config = crossd.WeightsConfig("custom", "classification", 1, ("a", "b", "c"))
    crossd.save(net, tmp_path / "w.safetensors", config)
    fresh = timm.create_model("convnextv2_atto", num_classes=3, in_chans=1, **options)
    loaded = crossd.load(tmp_path / "w.safetensors", fresh)
    volumes = torch.randn(1, 1, 32, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(volumes), net(volumes))
    keeps_the_law(net, volumes[:, :, 0], 0, 32)


# Both modes


class OnlyInTraining(nn.Module):
    """Does in training, and only there, what it is given."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.training else x


def net_of(function: Callable[[Tensor], Tensor]) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    return nn.Sequential(conv, OnlyInTraining(function), nn.Conv2d(4, 2, 1))


def test_branches_of_training_are_checked() -> None:
    def mixed(x: Tensor) -> Tensor:  # statistics of another sample, as MixStyle takes them
        mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True) + 1e-5
        return (x - mean) / deviation * deviation.flip(0) + mean.flip(0)

    net = convert(net_of(mixed)).train()
    keeps_the_law(net, torch.randn(2, 3, 12, 16), 0, 5, 1e-4)
    with pytest.raises(InputError, match=r"broken in the axial view in training.*OnlyInTraining"):
        convert(net_of(lambda x: x + x.cumsum(0)))
    with pytest.raises(InputError, match=r"cannot run on volumes .*must match"):
        convert(net_of(lambda x: x * torch.ones(2, 1, 1, 1)))


def test_chance_in_training_is_said() -> None:
    net = convert(net_of(lambda x: x + torch.randn(x.shape)))
    assert "in training its answers are random, and were not compared" in net.conversion.checks
    still = convert(net_of(lambda x: F.dropout(x, 0.5)))
    assert not any("answers are random" in line for line in still.conversion.checks)


def test_a_call_that_changes_the_next_one_is_refused() -> None:
    class Counts(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 4:  # on slices of volumes
                self.calls += 1
            return x * (1 + self.calls)

    with pytest.raises(InputError, match="differ"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 3), Counts()))


# What does not run


class Explodes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


def test_what_is_not_finite_or_does_not_run_is_one_line() -> None:
    with pytest.raises(InputError, match=r"cannot convert .*Sequential: .* is not finite$"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), Explodes()))

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).reshape(2, 4, -1).mean(2)  # a batch of two, and no other

    with pytest.raises(
        InputError, match=r"^cannot convert .*Fixed: its code fixes the size of the batch.*$"
    ):
        convert(Fixed())

    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.conv.weight)

    with pytest.raises(InputError, match=r"is used outside of its layer.*call the layer\)$"):
        convert(Outside())
    with pytest.raises(
        InputError, match=r"cannot run the network on images .*give convert\(.*example"
    ):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(7, 2)))
    with pytest.raises(InputError, match=r"example holds no images \(N, C, H, W\)|cannot run"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1)), example=torch.zeros(3, 8, 8))


def test_a_batch_of_one_is_checked_where_the_network_takes_one() -> None:
    class Net(nn.Module):
        def __init__(self, fault: str) -> None:
            super().__init__()
            self.conv, self.fault = nn.Conv2d(3, 4, 3), fault

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x).mean((2, 3))
            if self.fault == "squeezes":
                return y.squeeze()
            state: Any = getattr(self.conv, "crossd_state", None)
            number = 2 if state is None else state.last.number
            return y + float(number == 1 and len(y) > 1)  # wrong for one volume alone

    assert convert(Net("squeezes"))(torch.randn(1, 3, 4, 8, 8)).shape == (1, 4)
    with pytest.raises(InputError, match=r"the law is broken .* for a batch of one"):
        convert(Net("one"))


def test_convolutions_of_single_slices_are_counted() -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.conv(x[i : i + 1]) for i in range(len(x))])

    assert convert(Loops()).conversion.checks[0].startswith("0 of ")
    assert not convert(Loops()).conversion.checks[0].startswith("0 of 0")


class NotesTheBatch(nn.Module):
    """Notes the batch before a strided layer, as PVT, CoaT and XCiT do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.mix(self.patches(x))
        return x.reshape(batch, 8, -1).mean(2)


def test_depth_is_kept_where_the_code_notes_the_batch() -> None:
    net = convert(NotesTheBatch())
    line = next(line for line in net.conversion.checks if line.startswith("depth is strided by 1"))
    assert "because as the plane does" in line
    assert net(torch.randn(2, 3, 5, 16, 24)).shape == (2, 8)
    assert net.crossd_recipe["decided"]["stages"] == ((1, 1),)
    with pytest.raises(InputError, match="NotesTheBatch"):
        convert(NotesTheBatch(), depth_stride=4)


def test_decisions_are_taken_from_the_recipe() -> None:
    net = convert(NotesTheBatch())
    recipe = net.crossd_recipe

    class Never(Exception):
        pass

    def fail(*_: Any, **__: Any) -> Any:
        raise Never

    kept = law.examine, examples.example_for
    law.examine = examples.example_for = fail
    try:
        again = convert(NotesTheBatch(), decided=recipe["decided"], **recipe["mode_options"])
    finally:
        law.examine, examples.example_for = kept
    assert again.crossd_state.folding == net.crossd_state.folding
    assert again.crossd_recipe == net.crossd_recipe


def test_views_in_which_the_law_does_not_hold_are_not_drawn() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.place = nn.Parameter(torch.randn(1, 4, 32, 64))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.place

    net = convert(Rows()).train()
    assert net.crossd_state.folding.views == (0,)
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad(), crossd.view("axial"):
        expected = net(x)
    settle(net).train()
    for _ in range(10):
        with crossd.view("axial"):
            expected = net(x)
        torch.testing.assert_close(net(x), expected)


def test_rounding_is_no_fault() -> None:
    """A network of many layers without norms, in which rounding grows."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(6):
        conv = nn.Conv2d(8, 8, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(8), nn.Hardtanh(-0.1, 0.1), nn.BatchNorm2d(8)]
    net = convert(nn.Sequential(*layers))
    assert net.crossd_state.folding.views == (0, 1, 2)


# What the check has to see


class Own(nn.Module):
    """Convolves, and goes on with a function of the module and the map."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], rank: int = 2, **more: Any) -> None:
        super().__init__()
        conv: Any = nn.Conv2d if rank == 2 else nn.Conv3d
        self.conv, self.head = conv(3, 8, 3, padding=1), nn.Linear(8, 5)
        for name, value in more.items():
            setattr(self, name, value)
        self.rest = forward

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, self.conv(x))


def mixed(y: Tensor) -> Tensor:
    """Look at the sample before, which on volumes is the slice before."""
    return y.roll(1, 0).relu()


def test_labels_alone_are_compared_too() -> None:
    with pytest.raises(InputError, match="the law is broken in the axial view"):
        convert(Own(lambda self, y: mixed(y).argmax(1)))
    net = convert(Own(lambda self, y: y.argmax(1)))
    assert net(torch.randn(2, 3, 4, 6, 8)).shape == (2, 4, 6, 8)


@pytest.mark.parametrize("gate", [-7.0, 0.0, 1e-4])
def test_gates_that_are_nearly_closed_hide_nothing(gate: float) -> None:
    def forward(self: Any, y: Tensor) -> Tensor:
        return y + (self.gate.sigmoid() if gate < 0 else self.gate) * mixed(y)

    with pytest.raises(InputError, match="the law is broken in the axial view"):
        convert(Own(forward, gate=nn.Parameter(torch.tensor(gate))))


def attended(self: Any, y: Tensor) -> Any:
    weights = self.score(y).flatten(2).softmax(2)
    return self.head((y.flatten(2) * weights).sum(2))


def placed(self: Any, y: Tensor) -> Any:
    places = F.interpolate(self.places, y.shape[2:], mode="bilinear")
    return self.head((y + places).relu().mean((2, 3)))


def test_views_hold_the_law_whatever_weights_become() -> None:
    score = nn.Conv2d(8, 1, 1)
    nn.init.normal_(score.weight, std=0.002)
    for source in (
        Own(attended, score=score),  # a softmax that is nearly flat
        Own(placed, places=nn.Parameter(torch.zeros(1, 8, 16, 16))),
    ):
        net = convert(source)
        assert net.crossd_state.folding.views == (0,)
        with crossd.view("coronal"), pytest.raises(InputError, match="no coronal view"):
            net(torch.zeros(1, 3, 16, 16))
        with pytest.raises(InputError, match="no sagittal view"):
            crossd.to_2d(net, "sagittal")


def test_answers_that_are_not_finite_when_weights_move_far_are_those_of_a_shorter_way() -> None:
    net = convert(Own(lambda self, y: y * (1 / (self.scale.abs() - 1).clamp(max=0.0)).tanh(),
                      scale=nn.Parameter(torch.full((8, 1, 1), 0.5))))  # fmt: skip
    assert net.conversion.checks


def test_code_that_asks_for_classes_is_refused() -> None:
    def forward(self: Any, y: Tensor) -> Any:
        for layer in self.layers:
            y = layer(y)
            if type(layer) is nn.MaxPool3d:
                y = y + 1
        return y

    with pytest.raises(InputError, match=r"answers otherwise than the network it was made from"):
        convert(Own(forward, 3, layers=nn.ModuleList([nn.MaxPool3d(2), nn.ReLU()])))


def test_one_voxel_is_repeated_only_where_code_does_not_run_on_it() -> None:
    for broken in (
        lambda self, y: self.head(y.sum((2, 3, 4))),
        lambda self, y: y.cumsum(2),
        lambda self, y: y * (y.shape[2] / 8),
        lambda self, y: y[:, :, 1:] - y[:, :, :-1],
    ):
        with pytest.raises(InputError, match="cannot convert"):
            convert(Own(broken, 3))

    def halves(self: Any, y: Tensor) -> Tensor:
        if y.shape[2] % 2:
            raise ValueError("an odd number of slices")
        return F.avg_pool3d(y, (2, 1, 1))

    net = convert(Own(halves, 3))
    said = " ".join(net.conversion.checks)
    assert "images are repeated to 16 slices" in said and "an odd number of slices" in said
    assert "on volumes of 32 slices it differs by" in said
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 8, 8)


def test_another_depth_is_tried_with_its_masks() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3, padding=1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            if x.shape[2] % 2:
                raise ValueError("an odd number of slices")
            return self.conv(x) * mask.unsqueeze(1)

    net = convert(Masked(), example=(torch.randn(2, 1, 8, 10, 12), torch.rand(2, 8, 10, 12)))
    assert "on volumes of 16 slices it differs by" in net.conversion.checks[-1]


def test_functions_may_be_called_with_names() -> None:
    weight = nn.Parameter(torch.randn(8, 1, 3, 3, 3))
    net = convert(
        Own(
            lambda self, y: F.conv3d(y, self.kernel, padding=2, dilation=2, groups=8),
            3,
            kernel=weight,
        )
    )
    assert net.crossd_state.folding.repeat == 1
    assert net.crossd_state.folding.views == (0, 1, 2)


def test_attention_may_be_causal() -> None:
    def forward(self: Any, y: Tensor) -> Tensor:
        tokens = y.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True)

    assert "training" not in " ".join(convert(Own(forward), depth_stride=1).conversion.checks[:2])


def steep(gain: float, by: float = 80) -> nn.Module:
    """Answer by the last digits of its input, as deep networks do that were not trained.

    Where the gain is large; the check moves it by 0.2 and half of its size, or by less.
    """

    def forward(self: Any, y: Tensor) -> Any:
        return self.head((10 ** (by * self.gain) * y.mean((2, 3))).sin())

    return Own(forward, gain=nn.Parameter(torch.full((1,), gain)))


def test_weights_are_moved_less_where_rounding_would_grow() -> None:
    net = convert(steep(0.0))
    assert net.crossd_state.folding.views == (0, 1, 2)
    assert "rounding" not in " ".join(net.conversion.checks)


def test_the_source_is_compared_with_other_weights_where_rounding_grows() -> None:
    net = convert(steep(-0.2, -80))
    assert "on images it differs from the 2D network by 0" in " ".join(net.conversion.checks)


def test_rounding_of_float32_is_named() -> None:
    net = convert(steep(-0.09, -80))
    assert "in float32 rounding alone changes its answers by" in " ".join(net.conversion.checks)


def test_a_network_in_which_rounding_always_grows_is_refused() -> None:
    with pytest.raises(InputError, match="rounding alone changes its answers on the images"):
        convert(steep(1.0, 24))


def test_training_that_rounding_alone_changes_is_not_held_against_the_law() -> None:
    def forward(self: Any, y: Tensor) -> Any:
        pooled = y.mean((2, 3))
        return self.head((1e15 * pooled).sin() if self.training else pooled)

    net = convert(Own(forward))
    assert "in training rounding alone changes its answers" in " ".join(net.conversion.checks)


# Batches


class Routed(nn.Module):
    """Sends samples through layers in groups, or in another order."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 8, 3, padding=1), how
        self.experts = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        score = y[:, 0, 0, 0]
        if self.how == "experts":
            answer = torch.zeros_like(y)
            for i, expert in enumerate(self.experts):
                chosen = (score > 0) == bool(i)
                answer[chosen] = expert(y[chosen])
            return answer
        if self.how == "chunks":
            return torch.cat([self.experts[0](part) for part in y.split(8)])
        if self.how in ("pairs", "by name"):
            pair = [y, y.flip(-1)]
            both = torch.cat(pair) if self.how == "pairs" else torch.cat(tensors=pair, dim=0)
            a, b = self.experts[0](both).chunk(2)
            return a + b
        order = score.argsort()
        return self.experts[0](y[order])[order.argsort()]


@pytest.mark.parametrize("how", ["experts", "chunks", "pairs", "by name", "order"])
def test_code_that_takes_batches_apart_works_within_slices(how: str) -> None:
    net = convert(Routed(how), lift=None).eval()
    assert net.conversion.checks[0].startswith("1 of ")
    volumes = torch.randn(3, 3, 8, 10, 12)
    volumes[0] += 5  # all of its slices go one way
    together = net(volumes)
    for i in range(3):
        torch.testing.assert_close(net(volumes[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_examples_of_any_size_show_what_mixes(count: int) -> None:
    class Sorted(nn.Module):
        """Works on a batch in another order, by a function that nothing watches."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            order = y.mean((1, 2, 3)).argsort()

            def pick(t: Tensor, order: Tensor) -> Tensor:
                return t.gather(0, order.view(-1, 1, 1, 1).expand_as(t))

            return pick(self.second(pick(y, order)), order.argsort())

    with pytest.raises(InputError, match="depends on the others of its batch"):
        convert(Sorted(), example=torch.randn(count, 3, 16, 20))


def test_it_says_where_mixing_was_not_looked_for() -> None:
    class Threes(nn.Module):
        """Takes batches of three, six and so on."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).unflatten(0, (-1, 3)).flatten(0, 1)

    net = convert(Threes(), example=torch.randn(3, 1, 16, 20))
    assert "does not run on two images" in " ".join(net.conversion.checks)
    assert "two images" not in " ".join(convert(nn.Conv2d(1, 2, 3)).conversion.checks)


def test_volumes_of_a_batch_do_not_mix() -> None:
    def neighbours(self: Any, y: Tensor) -> Tensor:
        return y + torch.roll(y, 1, 0)

    def within(self: Any, y: Tensor) -> Tensor:
        return y + y.view(-1, 2, *y.shape[1:]).flip(1).flatten(0, 1) * (len(y) > 2)

    for broken in (neighbours, within):
        with pytest.raises(InputError, match="cannot convert"):
            convert(Own(broken))


def test_views_that_are_not_there_say_why() -> None:
    x = torch.randn(2, 3, 160, 160)
    net = convert(nn.Sequential(nn.Conv2d(3, 4, 3)), example=x)
    said = " ".join(net.conversion.checks)
    assert "it has no coronal view: images of 160 x 160 are too large" in said

    class Film(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

        def forward(self, x: Tensor, time: Tensor, flag: bool) -> Tensor:
            return self.conv(x) + self.linear(time)[:, :, None, None]

    net = convert(Film(), example=(x[:, :, :32, :40], torch.randn(2, 5), True))
    assert net.crossd_state.folding.views == (0, 1, 2)


def test_parameters_that_must_be_positive_stay_so() -> None:
    shares = nn.Parameter(torch.full((8,), 1 / 32))
    net = convert(Own(lambda self, y: self.head(y.mean((2, 3)) * self.shares.log()), shares=shares))
    assert net.conversion.checks


def test_volumes_are_as_deep_as_the_network_needs() -> None:
    """Six strided layers without padding leave nothing of 64 slices: 127 are tried."""
    layers = [nn.Conv2d(1 if i == 0 else 2, 2, 3, stride=2) for i in range(6)]
    net = convert(nn.Sequential(*layers), example=torch.randn(2, 1, 127, 128))
    assert net.crossd_recipe["decided"]["stages"] == ()
    assert "depth follows the plane" in net.conversion.checks
    assert net(torch.randn(1, 1, 127, 127, 127)).shape == (1, 2, 1, 1, 1)
    with pytest.raises(InputError, match="40 slices deep, but the network needs at least 127"):
        net(torch.randn(1, 1, 40, 127, 127))


def test_very_deep_volumes_are_not_tried() -> None:
    """Seven such layers need 255 slices, which may not fit into memory: depth is kept instead."""
    layers = [nn.Conv2d(1 if i == 0 else 2, 2, 3, stride=2) for i in range(7)]
    net = convert(nn.Sequential(*layers), example=torch.randn(2, 1, 255, 256))
    assert any("needs more than 1" in line for line in net.conversion.checks)
    assert {stride for _, stride in net.crossd_recipe["decided"]["stages"]} == {1}


@pytest.mark.parametrize(("dilation", "least"), [(20, 41), (65, 131)])
def test_an_answer_of_training_alone_may_want_deeper_volumes(dilation: int, least: int) -> None:
    """As torchvision's Inception, whose second classifier reduces its map further."""

    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
            self.more = nn.Conv2d(2, 2, 3, dilation=dilation)

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return (y, self.more(y)) if self.training else y

    net = convert(Second(), example=torch.randn(2, 1, least, least + 1))
    assert "depth follows the plane" in net.conversion.checks
    unasked = f"in training it needs at least {least} slices, which is more than were tried"
    assert any(unasked in line for line in net.conversion.checks) == (least > 128)
    with pytest.raises(InputError, match=f"needs at least {least}"):
        net.train()(torch.randn(2, 1, 8, least, least))
    assert net.first[1].num_batches_tracked == 1  # the search did not count
    assert net.first[1].training


# What the report says of layers and modes


def test_kernels_of_one_slice_do_not_see_depth() -> None:
    source = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert convert(source).conversion.checks[0] == "2 of 2 convolutions see depth"
    assert convert(source, depth_kernel=1).conversion.checks[0] == "1 of 2 convolutions see depth"


def test_operations_of_other_libraries_are_named() -> None:
    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.offsets = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 18, 1)
            self.last = torchvision.ops.DeformConv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return self.last(y, self.offsets(y))

    assert "torchvision.deform_conv2d works within slices" in convert(Deformed()).conversion.checks


@pytest.mark.parametrize(("mode", "lawless"), [("projection", False), ("slice", True)])
def test_modes_without_a_law_say_so(mode: str, lawless: bool) -> None:
    report = str(convert(nn.Sequential(nn.Conv2d(1, 4, 3)), mode).conversion)
    assert ("by projection: those of slice keep no such law" in report) == lawless


def test_networks_without_weights_are_refused() -> None:
    with torch.device("meta"):
        source = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(InputError, match=r"are on the meta device: .* or convert it with check="):
        convert(source)
    net = convert(source, check=False).to_empty(device="cpu")
    assert net.eval()(torch.zeros(1, 1, 4, 5, 6)).shape == (1, 4, 2, 3, 4)


def test_complex_vectors_are_averaged_over_slices() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.conv(x).mean((2, 3)))

    net = convert(Spectrum())
    x = torch.randn(2, 1, 6, 7)
    torch.testing.assert_close(net(repeat_along(x, 0, 9)).shape, net(x).shape)
    assert net(repeat_along(x, 0, 9)).is_complex()


@pytest.mark.parametrize("length", [2**16, 2**16 + 1, 2**17])
def test_no_two_rows_of_a_large_table_are_moved_alike(length: int) -> None:
    def forward(self: Any, y: Tensor) -> Tensor:
        apart = (self.table[0] - self.table[1]).sum() + (self.table[2] - self.table[3]).sum()
        return y + apart * y.roll(1, 0)

    with pytest.raises(InputError, match="the law is broken in the axial view"):
        convert(Own(forward, table=nn.Parameter(torch.zeros(4, length))))


def test_what_volumes_leave_behind_is_no_chance() -> None:
    def forward(self: Any, y: Tensor) -> Tensor:
        if not self.training:
            return y
        y = y + 2 * y.roll(1, 0)
        now = y.detach().std()
        self.scale = now if self.scale is None else 0.9 * self.scale + 0.1 * now
        return y / self.scale

    with pytest.raises(InputError, match="the law is broken in the axial view in training"):
        convert(Own(forward, scale=None))


def test_answers_of_another_shape_in_each_call_are_random() -> None:
    sizes = itertools.cycle(range(1, 14))

    def forward(self: Any, y: Tensor) -> Tensor:
        return y[..., : -next(sizes)] if self.training else y

    net = convert(Own(forward))
    assert "in training its answers are random, and were not compared" in net.conversion.checks
