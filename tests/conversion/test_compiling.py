"""Training by torch.compile: the same network, and soon nothing more to compile."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import some
from made import labelled, tiny
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch._inductor import config as inductor
from torchvision.ops.misc import Permute

import crossd
from crossd.conversion.checking.perturbed import perturbed
from crossd.training import loop, validate
from crossd.training.loop import TrainConfig

EPOCHS = 6


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


GRAPHS: list[Any] = []


def counting(graph: Any, examples: Any) -> Any:
    """Count, and compile nothing. (A function, as Lightning copies what torch.compile is given.)"""
    GRAPHS.append(graph)
    return graph.forward


def fitted(rank: int, views: bool, mode: str, compiled: bool) -> tuple[Any, list[int]]:
    """Train on batches of two sizes; returns what came of it, and the graphs before every epoch.

    Not the weights: a bias before BatchNorm has no gradient but rounding, which Adam magnifies.
    """
    graphs: list[int] = []

    def note(epoch: int, epochs: int) -> None:
        graphs.append(len(GRAPHS))

    net = tiny(mode, dropout=0.2)
    source = labelled(rank, 26, views)
    config = TrainConfig(
        epochs=EPOCHS, batch_size=5, compile=compiled, precision="64-true", one_view=True
    )
    losses = [record["loss"] for record in loop.fit(net, source, config, on_epoch=note).history]
    answers = [answer for answer, _ in validate.answers(net, source.test, config, source.task)]
    return (losses, answers), graphs


CASES = [(2, False, "projection"), (2, True, "projection"), (2, False, "fourier")]
CASES += [(3, False, "projection")]


@pytest.mark.slow
@pytest.mark.parametrize("case", some(CASES, [CASES[1], CASES[3]]))
def test_graphs_are_few_and_give_the_same(
    case: tuple[int, bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, views, mode = case
    expected = fitted(rank, views, mode, False)[0]
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    GRAPHS.clear()
    found, graphs = fitted(rank, views, mode, True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert 0 < graphs[-1] == graphs[2] <= 6, graphs  # a graph a view, and one for any size of batch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize(("rank", "views", "mode"), CASES)
def test_compiled_code_trains_alike(rank: int, views: bool, mode: str) -> None:
    expected = fitted(rank, views, mode, False)[0]
    # Compiled code draws other numbers for dropout, unless it is asked for those of torch.
    with inductor.patch(fallback_random=True):
        found = fitted(rank, views, mode, True)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class InPlace(nn.Module):
    """Changes its maps in place, by a layer and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.first(x))
        z = self.second(y)
        z += y
        return self.last(z)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 2, 5), (2, 2, 2), (3, 2, 7)])
def test_compiled_on_volumes_of_any_depth(shape: tuple[int, ...]) -> None:
    """One volume of which one slice is left, too: it is as long a batch as one image."""
    net = perturbed(crossd.convert(InPlace())).eval()
    x = torch.randn(*shape, 12, 16)
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(found, net(x))


class Padded(nn.Module):
    """Pads by a function, which looking along depth must do too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.pad(self.first(F.pad(x, (1, 1, 1, 1))), (1, 1, 1, 1)))


def of_swin(attention: str) -> nn.Module:
    """A part of a Swin Transformer: windows, padded, and queries that come out of a tuple."""
    block = SwinTransformerBlock(6, (8, 8), num_heads=2, window_size=3, shift_size=1)
    source = nn.Sequential(nn.Conv2d(2, 6, 2, 2), Permute((0, 2, 3, 1)), block)
    return crossd.convert(source, check=False, attention=attention)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*leaves out the last 1 of 5")
@pytest.mark.parametrize("depth", some([2, 5], [5]))
@pytest.mark.parametrize("name", some(["padded", "slice", "volume"], ["padded", "volume"]))
def test_compiled_code_sees_what_watches_functions(name: str, depth: int) -> None:
    net = perturbed(crossd.convert(Padded()) if name == "padded" else of_swin(name)).eval()
    for count in (1, 2):
        torch.compiler.reset()
        x = torch.randn(count, 2, depth, 16, 16)
        with torch.no_grad():
            found = torch.compile(net, fullgraph=True, backend="eager")(x)
            torch.testing.assert_close(found, net(x))


def test_a_list_stays_a_list() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = list(self.first(x).chunk(2, 1))
            return self.last(torch.cat([*parts[::-1], torch.broadcast_tensors(x)[0]], 1))

    net, x = perturbed(crossd.convert(Split())).eval(), torch.randn(1, 2, 3, 8, 10)
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(found, net(x))


def test_graphs_that_break_give_the_same() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.max_pool2d(self.first(x), 3, 1, 1)
            torch._dynamo.graph_break()
            return self.last(F.avg_pool2d(y, 3, 1, 1))

    net, x = perturbed(crossd.convert(Broken())).eval(), torch.randn(1, 2, 3, 8, 10)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager")(x), net(x))


STATISTICS: dict[str, Any] = {
    "norm": lambda y: y.norm(p=2, dim=(2, 3), keepdim=True),
    "vector norm": lambda y: torch.linalg.vector_norm(y, 2, (2, 3), keepdim=True),
    "variance": lambda y: y.var((2, 3), keepdim=True),
    "deviation and mean": lambda y: torch.std_mean(y, (2, 3), keepdim=True)[0],
    "mean": lambda y: y.mean((2, 3), keepdim=True),
    "largest": lambda y: y.amax((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", some(STATISTICS, [*STATISTICS][:2]))
def test_compiled_statistics_are_of_volumes(name: str) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y * STATISTICS[name](y)

    net, x = perturbed(crossd.convert(Gated())).eval(), torch.randn(2, 2, 3, 8, 10)
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(found, net(x))
