"""Tensors in containers of any kind, as networks are given and give them."""

import collections
import dataclasses
import types
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.folding.containers import mapped, tensors_in


@dataclasses.dataclass(frozen=True)
class Record:
    logits: Tensor
    name: str = "record"


@dataclasses.dataclass(slots=True)
class Slotted:
    logits: Tensor
    missing: int = dataclasses.field(init=False)


class Thing:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.itself = logits, [self]


class Pair(NamedTuple):
    logits: Tensor
    other: int


class Bag(dict):  # type: ignore[type-arg]
    note = 3


class Row(list):  # type: ignore[type-arg]
    pass


KINDS: dict[str, tuple[Any, Any]] = {
    "tensor": (lambda x: x, lambda a: a),
    "tuple": (lambda x: (1, x), lambda a: a[1]),
    "named tuple": (lambda x: Pair(x, 2), lambda a: a.logits),
    "dict in a list": (lambda x: [{"logits": x}], lambda a: a[0]["logits"]),
    "ordered dict": (lambda x: collections.OrderedDict(logits=x), lambda a: a["logits"]),
    "subclass of dict": (lambda x: Bag(logits=[x]), lambda a: a["logits"][0]),
    "subclass of list": (lambda x: Row([x]), lambda a: a[0]),
    "frozen dataclass": (Record, lambda a: a.logits),
    "dataclass with slots": (Slotted, lambda a: a.logits),
    "object that holds itself": (Thing, lambda a: a.itself[0].itself[0].logits),
    "user's dict": (lambda x: collections.UserDict(logits=x), lambda a: a["logits"]),
    "namespace": (lambda x: types.SimpleNamespace(a=Record(x)), lambda a: a.a.logits),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_in_them_are_found_and_changed(kind: str) -> None:
    make, take = KINDS[kind]
    x = torch.arange(3.0)
    given = make(x)
    made = mapped(lambda tensor: tensor + 1, given)
    assert type(made) is type(given) and torch.equal(take(made), x + 1)
    assert torch.equal(take(given), x), "what was given stays"
    assert tensors_in(given)[0] is x


def test_what_holds_no_tensor_is_one_thing() -> None:
    odd = types.SimpleNamespace(a=1)
    odd.itself = odd
    for value in (
        None,
        3,
        "text",
        odd,
        np.ones(3),
        {4},
        types.SimpleNamespace(a=1),
        nn.Conv2d(1, 1, 1),
        torch.float32,
    ):
        assert not tensors_in([value])
        assert mapped(lambda tensor: tensor, value) is value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
def test_networks_answer_in_them_in_both_ranks(kind: str, conv: Any) -> None:
    make, take = KINDS[kind]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(1, 3, 3, padding=1)

        def forward(self, given: Any) -> Any:
            return make(self.conv(take(given)))

    rank = 2 if conv is nn.Conv2d else 3
    net: Any = crossd.convert(Net(), example=(make(torch.randn(2, 1, *(6, 8, 10)[:rank])),)).eval()
    image, volume = torch.randn(2, 1, 8, 10), torch.randn(2, 1, 6, 8, 10)
    with torch.no_grad():
        assert take(net(make(image))).shape == (2, 3, 8, 10)
        assert take(net(make(volume))).shape == (2, 3, 6, 8, 10)
        torch.testing.assert_close(take(net(make(image))), net.conv(image))


def test_an_answer_in_which_nothing_is_found_is_refused() -> None:
    class Hidden:
        __slots__ = ("logits",)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Any:
            answer = Hidden()
            answer.logits = self.conv(x)  # type: ignore[attr-defined]
            return answer

    with pytest.raises(InputError, match="holds no tensor that is found"):
        crossd.convert(Net())
