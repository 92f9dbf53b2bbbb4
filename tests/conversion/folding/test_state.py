"""What a run leaves behind: recomputation, threads, replicas, errors, copies."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from helpers import close_relative, settle, some
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import crossd
from crossd.nn.views import VIEWS, replicated_axes, view_is_set

convert: Callable[..., Any] = crossd.convert


class Blocks(nn.Module):
    """Two blocks that look at neighbours by layers and by functions, recomputed as asked."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way = way
        self.stem = nn.Conv2d(1, 4, 3, 2, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if self.way == "closure":  # of layers, with no module around them
                x = checkpoint(lambda y, b=block: b.conv(y) * b.gate(y), x, use_reentrant=False)
            elif self.way == "loose":
                x = checkpoint(
                    lambda y, b=block: b.conv(y) * y.mean((2, 3), True), x, use_reentrant=False
                )
            elif self.way:
                x = checkpoint(block, x, use_reentrant=self.way == "reentrant")
            else:
                x = block(x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(4, 4, 3, padding=1), Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.gate(x)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.linear(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return gate


def turned(make: Callable[[], nn.Module]) -> Any:
    """A network whose views differ, in training mode, whose norms keep their statistics."""
    torch.manual_seed(0)
    net = settle(convert(make(), check=False)).train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return net


def gradients(net: Any, *losses: Callable[[Any], Tensor]) -> list[Tensor]:
    """Gradients of a sum of losses, all computed before one backward pass."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    torch.stack([loss(net) for loss in losses]).sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def on(inputs: Tensor, view: str | list[str] | None = None) -> Callable[[Any], Tensor]:
    """A loss on some inputs, in a view that is set while the network answers, or in none."""

    def loss(net: Any) -> Tensor:
        if view is None:
            answer = net(inputs)
        else:
            with crossd.view(view):
                answer = net(inputs)
        total: Tensor = answer.square().sum()
        return total

    return loss


def thin_resnet() -> nn.Module:
    return timm.create_model("resnet10t", channels=(8, 16, 16, 24), in_chans=1, num_classes=3)


def resnet(way: str) -> Any:
    net = turned(thin_resnet)
    if way == "ours":
        return crossd.checkpoint_activations(net)
    net.set_grad_checkpointing(bool(way))
    return net


def transformer(way: str) -> Any:
    settings: Any = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 2}
    net = turned(lambda: timm.models.VisionTransformer(in_chans=1, num_classes=3, **settings))
    if way == "ours":
        return crossd.checkpoint_activations(net)
    net.set_grad_checkpointing(bool(way))
    return net


def blocks(way: str) -> Any:
    if way == "ours":
        return crossd.checkpoint_activations(turned(Blocks))
    return turned(lambda: Blocks(way))


NETS: list[tuple[Callable[[str], Any], str]] = [
    *((resnet, way) for way in ("timm", "ours")),
    *((transformer, way) for way in ("timm", "ours")),
    *((blocks, way) for way in ("reentrant", "other", "closure", "ours")),
]


def same(make: Callable[[str], Any], way: str, *losses: Callable[[Any], Tensor]) -> None:
    expected, found = gradients(make(""), *losses), gradients(make(way), *losses)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * max(1.0, float(a.abs().max())))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 32, 32)


@pytest.fixture
def volumes() -> Tensor:
    return torch.randn(2, 1, 16, 32, 32)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("make", "way"), NETS)
class TestRecomputation:
    """Gradients are those without it."""

    @pytest.mark.parametrize("view", VIEWS)
    def test_in_a_view_that_was_set(self, make: Any, way: str, view: str, images: Tensor) -> None:
        same(make, way, on(images, view))

    def test_in_a_view_that_was_drawn(self, make: Any, way: str, images: Tensor) -> None:
        for _ in range(3):
            same(make, way, on(images))

    def test_in_a_view_for_each_sample(self, make: Any, way: str, images: Tensor) -> None:
        same(make, way, on(images, ["sagittal", "axial"]))

    def test_on_volumes(self, make: Any, way: str, volumes: Tensor) -> None:
        same(make, way, on(volumes))

    def test_of_several_passes_before_one_backward(
        self, make: Any, way: str, images: Tensor, volumes: Tensor
    ) -> None:
        losses = on(images, "coronal"), on(volumes), on(images, "sagittal"), on(volumes[:1, :, :8])
        same(make, way, *losses)
        same(make, way, *reversed(losses))

    def test_twice_through_one_graph(self, make: Any, way: str, images: Tensor) -> None:
        net = make(way)
        answer = on(images, "coronal")(net)
        answer.backward(retain_graph=True)
        first = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        with crossd.view("axial"):
            net(images)  # another pass, which nobody asks about
        answer.backward()
        second = [p.grad for p in net.parameters() if p.grad is not None]
        for a, b in zip(first, second, strict=True):
            close_relative(b, 2 * a, 1e-4) if a.any() else None


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rank", [2, 3])
def test_recomputation_of_a_whole_network(reentrant: bool, rank: int) -> None:
    inputs = torch.randn(2, 1, *[16] * rank, requires_grad=True)
    net = turned(Blocks)

    def loss(net: Any) -> Tensor:
        with crossd.view("coronal"):
            answer: Tensor = checkpoint(net, inputs, use_reentrant=reentrant)
        return answer.square().sum()

    expected = gradients(net, on(inputs, "coronal"))
    if reentrant:  # it runs without a graph, so that nothing tells the view afterwards
        with pytest.raises(RuntimeError, match="use_reentrant=False around the network"):
            gradients(net, loss)
        return
    for a, b in zip(expected, gradients(net, loss), strict=True):
        torch.testing.assert_close(b, a)


def test_checking_warns_of_nothing() -> None:
    assert convert(Blocks("reentrant")).conversion.checks  # warnings are errors here


def from_inside(net: Any) -> Any:
    """Give the gradients of what a part in the middle of a pass in the coronal view gives."""
    kept: list[Tensor] = []
    hook = net.blocks[1].register_forward_hook(lambda m, i, o: kept.append(o))
    net.zero_grad()
    with crossd.view("coronal"):
        net(torch.ones(1, 1, 16, 16, requires_grad=True))
    hook.remove()
    kept[0].sum().backward()
    return [p.grad for p in net.blocks[0].parameters()]


def test_a_pass_that_is_not_known_is_an_error() -> None:
    expected = from_inside(turned(Blocks))
    for a, b in zip(from_inside(turned(lambda: Blocks("other"))), expected, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="did not begin at an answer of the network"):
        from_inside(turned(lambda: Blocks("reentrant")))  # of which torch keeps nothing
    same(blocks, "other", on(torch.randn(1, 1, 16, 16), "coronal"))  # and the next one is right


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_recomputation_around_a_network_is_of_its_own_run(kind: Any, rank: int) -> None:
    layers = kind(1, 4, 3, padding=1), nn.ReLU(), kind(4, 4, 3, padding=1)
    net = settle(convert(nn.Sequential(*layers)))
    images, inputs = torch.randn(2, 1, 8, 10), torch.randn(2, 1, *(6, 8, 10)[-rank:])

    def around(x: Tensor) -> Tensor:
        return (net(x).sigmoid() * net(x.flip(-1))).square()  # two runs in one part

    def loss(recomputed: bool) -> Any:
        net.zero_grad()
        with crossd.view("coronal"):
            first = (
                checkpoint(around, inputs, use_reentrant=False) if recomputed else around(inputs)
            )
        with crossd.view("sagittal"):
            first = first.sum() + net(images).square().sum()
        first.backward(retain_graph=True)
        first.backward()
        return [p.grad for p in net.parameters()]

    expected = [g.clone() for g in loss(False)]
    for a, b in zip(loss(True), expected, strict=True):
        close_relative(a, b, 1e-5)


def test_functions_in_no_module_of_what_is_recomputed_are_an_error() -> None:
    net = turned(lambda: Blocks("loose"))
    with pytest.raises(RuntimeError, match=r"mean is called in a part .* in no module of it"):
        net(torch.randn(1, 1, 8, 16, 16))
    net(torch.randn(1, 1, 16, 16)).sum().backward()  # images are not folded


def test_three_dimensional_networks_are_recomputed_in_their_view() -> None:
    class Solid(nn.Module):
        def __init__(self, way: str) -> None:
            super().__init__()
            self.way = way
            self.a, self.b = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 2, (1, 3, 3), 1, (0, 1, 1))

        def _inner(self, x: Tensor) -> Tensor:
            return self.b(nn.functional.avg_pool3d(self.a(x), 2))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self._inner, x, use_reentrant=False) if self.way else self._inner(x)

    images, volumes = torch.randn(2, 1, 8, 10), torch.randn(2, 1, 6, 8, 10)
    losses = on(images, "coronal"), on(volumes), on(images, "sagittal"), on(images)
    same(lambda way: turned(lambda: Solid(way)), "checkpoint", *losses)


# Other methods


def test_features_in_training_follow_the_view() -> None:
    net = turned(thin_resnet)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        answers = []
        for view in VIEWS:
            with crossd.view(view):
                answers.append(net(images))
                close_relative(net.forward_head(net.forward_features(images)), answers[-1], 1e-5)
        met = set()
        for _ in range(30):
            answer = net.forward_head(net.forward_features(images))
            met |= {i for i, own in enumerate(answers) if torch.allclose(answer, own, 1e-3)}
    assert met == {0, 1, 2}


FEATURES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "resnet10t": ({}, (2, 512, 1, 1, 1)),
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 2}, (2, 2, 5, 192)),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 1)}, (2, 8, 7, 7, 192)),
}


@pytest.mark.parametrize("name", some(FEATURES, [*FEATURES][:2]))
def test_features_of_volumes_and_back(name: str) -> None:
    options, shape = FEATURES[name]
    net = settle(convert(timm.create_model(name, num_classes=3, **options)))
    side = options.get("img_size", 32)
    volumes = torch.randn(2, 3, 32, side, side)
    with torch.no_grad():
        features = net.forward_features(volumes)
        assert features.shape == shape
        close_relative(net.forward_head(features), net(volumes), 1e-5)
        flat = net.forward_features(volumes[:, :, 0])
        close_relative(net.forward_head(flat), net(volumes[:, :, 0]), 1e-5)
        if name.startswith("vit"):  # it notes the batch before the patches
            with pytest.raises(RuntimeError, match="convert with depth_stride=1"):
                net.forward_intermediates(volumes, intermediates_only=True)
        else:
            maps = net.forward_intermediates(volumes, intermediates_only=True)
            assert all(m.dim() == 5 and m.shape[0] == 2 for m in maps)


def test_intermediate_maps_of_a_transformer() -> None:
    make = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
    net = settle(convert(make, depth_stride=1))
    volumes = torch.randn(2, 3, 3, 32, 32)
    maps = net.forward_intermediates(volumes, intermediates_only=True)
    assert [m.shape for m in maps] == [(2, 192, 3, 2, 2)] * 2


def test_parts_of_a_network_are_called_as_it_is() -> None:
    net = turned(thin_resnet).eval()
    volumes = torch.randn(2, 1, 16, 32, 32)

    def by_parts(x: Tensor) -> Tensor:
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
        return net.forward_head(x)

    with torch.no_grad():
        close_relative(by_parts(volumes), net(volumes), 1e-5)
        for view in VIEWS:
            with crossd.view(view):
                close_relative(by_parts(volumes[:, :, 0]), net(volumes[:, :, 0]), 1e-5)


def test_beside_volumes_what_is_said_of_each_is_said_of_its_slices() -> None:
    class Film(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(5, 4)

        def forward(self, condition: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.conv(x * self.linear(condition)[:, :1, None, None]) * scale

    net = convert(Film(), example=(torch.randn(2, 5), torch.randn(2, 1, 16, 24)))
    condition, volumes = torch.randn(3, 5), torch.randn(3, 1, 8, 16, 24)
    with torch.no_grad():
        together = net(condition, volumes, scale=2.0)
        for i in range(3):
            alone = net(condition[i : i + 1], volumes[i : i + 1], scale=2.0)
            close_relative(together[i : i + 1], alone, 1e-5)


# Threads and replicas


def test_threads_have_views_and_runs_of_their_own() -> None:
    net = turned(thin_resnet)
    images, volumes = torch.randn(2, 1, 32, 32), torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        expected = {}
        for view in VIEWS:
            with crossd.view(view):
                expected[view] = net(images)
        solid = net(volumes)
    start, wrong = threading.Barrier(4), []

    def work(view: str | None) -> None:
        start.wait()
        for _ in range(10):
            with torch.no_grad():
                if view is None:
                    wrong.append(not torch.allclose(net(volumes), solid, 1e-4, 1e-5))
                    continue
                with crossd.view(view):
                    wrong.append(not torch.allclose(net(images), expected[view], 1e-4, 1e-5))

    threads = [threading.Thread(target=work, args=(view,)) for view in (*VIEWS, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 40 and not any(wrong)


def test_replicas_have_the_view_of_where_they_were_made() -> None:
    net = turned(Blocks).eval()
    images = torch.randn(2, 1, 16, 16)

    def replica_of(net: Any) -> Any:  # as torch.nn.parallel.replicate does, on one device
        made = {module: module._replicate_for_data_parallel() for module in net.modules()}
        for module, twin in made.items():
            for name, child in module._modules.items():
                twin._modules[name] = made[child]
                setattr(twin, name, made[child])
            for name, parameter in module._parameters.items():
                twin._parameters[name] = parameter
        return made[net]

    answers: dict[str, Tensor] = {}

    def work(view: str, twin: Any) -> None:
        answers[view] = twin(images)

    threads = []
    for view in VIEWS:
        with crossd.view(view):
            threads.append(threading.Thread(target=work, args=(view, replica_of(net))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for view in VIEWS:
        with crossd.view(view):
            torch.testing.assert_close(answers[view], net(images))
    with crossd.view(["axial", "coronal"]), pytest.raises(ValueError, match="DataParallel"):
        replica_of(net)


# Inside of other networks


def test_a_network_inside_of_a_users_module() -> None:
    class Siamese(nn.Module):
        def __init__(self, a: nn.Module, b: nn.Module) -> None:
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x) - self.b(x)
            return nn.functional.max_pool2d(y, 2) if y.dim() == 4 else y

    a = turned(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)))
    b = turned(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AvgPool2d(2)))
    net = Siamese(a, b)
    volumes = torch.randn(2, 1, 7, 8, 10)
    torch.testing.assert_close(net(volumes), a(volumes) - b(volumes))
    with crossd.view("sagittal"):
        images = volumes[..., 0]
        answer = nn.functional.max_pool2d(a(images) - b(images), 2)
        torch.testing.assert_close(net(images), answer)


# Errors


@pytest.mark.parametrize("where", ["conv", "gate"])
def test_after_an_error_the_next_call_is_right(where: str) -> None:
    net = turned(Blocks)
    volumes, images = torch.randn(1, 1, 8, 16, 16), torch.randn(2, 1, 16, 16)
    with torch.no_grad(), crossd.view("coronal"):
        expected = net(volumes), net(images)

    class Wrong(Exception):
        pass

    def spoil(*_: Any) -> None:
        raise Wrong

    for inputs in (volumes, images):
        handle = getattr(net.blocks[1], where).register_forward_hook(spoil)
        with pytest.raises(Wrong):
            net(inputs)
        handle.remove()
        assert not view_is_set() and not replicated_axes()
        x = torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(x.mean((2, 3)), torch.stack([s.mean((1, 2)) for s in x]))
        with torch.no_grad(), crossd.view("coronal"):
            torch.testing.assert_close((net(volumes), net(images)), expected)


def test_nothing_is_kept_alive_by_what_stays_known() -> None:
    net = turned(Blocks)
    volumes = torch.randn(1, 1, 8, 16, 16)
    answer = net(volumes)
    kept = [weakref.ref(volumes), weakref.ref(answer)]
    del volumes, answer
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


# Copies


@pytest.mark.parametrize("make", [lambda: Blocks(), lambda: nn.Sequential(nn.Conv2d(1, 2, 3))])
def test_copies_and_pickles_have_runs_of_their_own(make: Callable[[], nn.Module]) -> None:
    net = turned(make)
    volumes = torch.randn(2, 1, 8, 16, 16)
    expected = net(volumes)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin) is type(net) and isinstance(twin, type(make()))
        assert twin.crossd_state is not net.crossd_state
        states = {id(getattr(m, "crossd_state", twin.crossd_state)) for m in twin.modules()}
        assert states == {id(twin.crossd_state)}
        torch.testing.assert_close(twin(volumes), expected)
        assert list(twin.state_dict()) == list(net.state_dict())


def test_classes_and_names_are_those_of_the_source() -> None:
    source = Blocks()
    net = turned(lambda: source)
    for (path, module), (other, own) in zip(
        source.named_modules(), (m for m in net.named_modules() if ".mode" not in m[0]), strict=True
    ):
        assert path == other
        if not isinstance(module, nn.Conv2d):
            assert isinstance(own, type(module)) and type(own).__name__ == type(module).__name__
    assert "Blocks(" in repr(net) and net.forward.__name__ == "forward"
