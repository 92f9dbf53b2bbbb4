"""Copies of networks are whole: nothing in them goes on using what belongs to their source."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossd
from crossd import InputError


class Net(nn.Module):
    """Two convolutions, of which the second one is called as it is kept."""

    def __init__(self, keep: Callable[[Any], None]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.act, self.sizes = nn.ReLU(), [1, 2]
        self.seen: dict[str, Tensor] = {}
        self.scale = nn.Parameter(torch.ones(()))
        self.call: Any = self.rest
        keep(self)

    def rest(self, x: Tensor) -> Any:
        return self.second(x)

    def forward(self, x: Tensor) -> Any:
        return self.call(self.act(self.first(x)))


def in_a_list(net: Any) -> None:
    del net.call
    net.listed = [{"second": lambda x: net.second(x)}]
    net.call = functools.partial(lambda kept, x: kept[0]["second"](x), net.listed)


def as_a_default(net: Any) -> None:
    net.call = lambda x, layer=net.second: layer(x)


def as_a_keyword_default(net: Any) -> None:
    def call(x: Tensor, *, layer: Any = net.second) -> Any:
        return layer(x)

    net.call = call


def in_a_partial(net: Any) -> None:
    net.call = functools.partial(lambda a, x: net.second(x) + a, 1)


def behind_another(net: Any) -> None:
    def inner(x: Tensor) -> Any:
        return net.second(x)

    net.call = lambda x: inner(x)


def of_a_parameter(net: Any) -> None:
    scale = net.scale
    net.call = lambda x: x * scale


def of_a_dict(net: Any) -> None:
    seen = net.seen
    net.act.register_forward_hook(lambda module, x, y: seen.update(y=y))


def in_a_hook(net: Any) -> None:
    net.act.register_forward_hook(lambda module, x, y: net.seen.update(y=y))


def by_a_weak_reference(net: Any) -> None:
    net.call, net.parent = net.rest, weakref.ref(net)


def by_a_method_of_a_list(net: Any) -> None:
    net.queue = []
    net.put = net.queue.append


def outside(net: Any) -> None:
    layer = nn.Conv2d(4, 2, 1)
    net.call = lambda x: layer(x)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (in_a_list, "a function in its 'listed' holds modules"),
        (as_a_default, "the function 'call' that it keeps holds modules"),
        (as_a_keyword_default, "the function 'call' that it keeps holds modules"),
        (in_a_partial, "a function in its 'call' holds modules"),
        (behind_another, "the function 'call' that it keeps holds modules"),
        (of_a_parameter, "the function 'call' that it keeps holds a Parameter"),
        (of_a_dict, "layer 'act' .*: a function in its '_forward_hooks' holds a dict"),
        (in_a_hook, "layer 'act' .*: a function in its '_forward_hooks' holds modules"),
        (by_a_weak_reference, "a function in its 'parent' holds modules"),
        (by_a_method_of_a_list, "a function in its 'put' holds a list"),
        (outside, "the function 'call' that it keeps holds modules"),
    ],
)
@pytest.mark.parametrize("options", [{"check": False}, {}, {"num_classes": None, "in_channels": 1}])
def test_what_would_go_on_using_its_source_is_refused(
    keep: Callable[[Any], None], message: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=f"{message}, which a copy .* would share with this one"):
        crossd.convert(Net(keep), **options)


LAYER = nn.Conv2d(4, 2, 1)


class NamesAGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), LAYER

    def forward(self, x: Tensor) -> Any:
        return LAYER(self.first(x))


def test_methods_of_classes_are_looked_into() -> None:
    with pytest.raises(InputError, match="'forward' of its class holds modules"):
        crossd.convert(NamesAGlobal())
    layer = nn.Conv2d(4, 2, 1)

    class Closes(NamesAGlobal):
        def forward(self, x: Tensor) -> Any:
            return layer(self.second(self.first(x)).repeat(1, 2, 1, 1))

    with pytest.raises(InputError, match="'forward' of its class holds modules"):
        crossd.convert(Closes())


def harmless(net: Any) -> None:
    """Keep functions of many kinds, none of which holds what a copy has of its own."""
    sizes, outside = net.sizes, nn.ReLU()
    net.bound = [net.rest, functools.partial(net.rest), {"a": net.second.forward}]
    net.settings = lambda x, a=sizes: x * sizes[0] + a[1]
    net.plain = [torch.relu, lambda x, act=outside: act(x), max, "".join]
    net.act.register_forward_hook(net.note)
    net.shares, net.also = Shares([net.sizes, []]), None
    net.also = net.shares.settings


class Shares:
    """Gives its copies what it has, which is copied elsewhere too."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def __deepcopy__(self, memo: Any) -> "Shares":
        return Shares(self.settings)


class Notes(Net):
    def note(self, module: nn.Module, x: Any, y: Tensor) -> None:
        self.seen["y"] = y


def test_what_copies_have_of_their_own_is_not_refused() -> None:
    source = Notes(harmless)
    source(torch.zeros(2, 3, 8, 8))
    net: Any = crossd.convert(source)
    x = torch.randn(1, 3, 5, 8, 9)
    assert net(x).shape == (1, 2, 5, 8, 9) and net.seen["y"].shape == (5, 4, 8, 9)
    torch.testing.assert_close(net.bound[0](net.act(net.first(x))), net(x))
    with torch.no_grad():
        net.second.weight.zero_()
    assert not crossd.to_3d(net)(x).sub(net.second.bias[:, None, None, None]).any()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_function_has_no_copies() -> None:
    net: Any = Net(lambda net: None)
    net.call = torch.jit.trace(lambda x: x + 1, torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match=r"cannot copy .*Net: .*cannot be pickled"):
        crossd.convert(net)
