"""Which tensor is which, on names and shapes alone."""

import pytest
from helpers import law
from hypothesis import given
from hypothesis import strategies as st

from crossd.errors import InputError
from crossd.weights.key_matching import Match, Shape, find, relation

NET: dict[str, Shape] = {
    "stem.weight": (8, 1, 3, 3, 3),
    "norm.weight": (8,),
    "norm.bias": (8,),
    "stage.0.conv.weight": (8, 8, 3, 3, 3),
    "stage.1.conv.weight": (16, 8, 3, 3, 3),
    "head.weight": (5, 16),
    "head.bias": (5,),
}
PREFIXES = st.sampled_from(
    ["", "module", "model.net", "_orig_mod", "stage", "stage.0", "module.stage", "0"]
)


def renamed(shapes: dict[str, Shape], prefix: str) -> dict[str, Shape]:
    return {f"{prefix}.{name}" if prefix else name: shape for name, shape in shapes.items()}


@law
@given(PREFIXES, PREFIXES, st.booleans())
def test_any_prefix_is_exchanged_for_any_other(theirs: str, ours: str, planar: bool) -> None:
    state = {n: s[:2] + s[3:] if planar and len(s) == 5 else s for n, s in NET.items()}
    match = find(renamed(NET, ours), {"": renamed(state, theirs)})
    expected = dict(zip(renamed(state, theirs), renamed(NET, ours), strict=True))
    assert match.names == expected and match.fits == len(NET)


@law
@given(st.permutations(sorted(NET)), st.integers(0, 3))
def test_neither_order_nor_a_few_strangers_matter(order: list[str], strangers: int) -> None:
    state = {f"a.{name}": NET[name] for name in order}
    state |= {f"b.{n}.weight": (n + 1, 2) for n in range(strangers)}
    match = find(NET, {"": state})
    assert match.prefix == "a" and len(match.names) == len(NET)


def test_the_part_with_the_network_is_found() -> None:
    moments = {f"{n}.exp_avg": shape for n, shape in enumerate(NET.values())}
    match = find(NET, {"optimizer": moments, "state": renamed(NET, "net"), "": {"step": ()}})
    assert (match.part, match.prefix, match.where) == ("state", "net", "state.net")
    assert str(match) == "'state.net' of the checkpoint is the network"
    assert str(find(NET, {"": NET})) == ""


def test_numbers_are_children_in_order() -> None:
    """As RadImageNet's backbones have them: layers without parameters leave gaps."""
    numbers = {"stem": "0", "norm": "1", "stage": "4", "head": "10"}
    state = {
        ".".join(["backbone", numbers[name.split(".")[0]], *name.split(".")[1:]]): shape
        for name, shape in NET.items()
    }
    for prefix in ("", "body"):
        match = find(renamed(NET, prefix), {"": state})
        assert list(match.names.values()) == list(renamed(NET, prefix))
        assert match.children == (("0", "stem"), ("1", "norm"), ("4", "stage"), ("10", "head"))
        assert "numbered children taken in order: 0 is stem, 1 is norm" in str(match)
    assert match.here("backbone.4.2.conv.weight") == "body.stage.2.conv.weight"
    assert match.here("backbone.7.weight") is None and match.here("other.weight") is None
    without_head = {name: shape for name, shape in state.items() if ".10." not in name}
    assert len(find(NET, {"": without_head}).names) == len(NET) - 2
    one_more = state | {"backbone.4.1.norm.weight": (16,)}
    with pytest.raises(InputError, match="at most 2 of the network's 7 tensors fit"):
        find(NET, {"": one_more})


def test_what_fits_equally_well_is_not_chosen_by_chance() -> None:
    both = renamed(NET, "student") | renamed(NET, "teacher")
    with pytest.raises(InputError, match=r"fit equally well, with 7 tensors: 'student' as the net"):
        find(NET, {"": both})
    assert find(NET, {"": both}, "teacher").prefix == "teacher"
    assert find(NET, {"": both | renamed(NET, "")}).prefix == ""
    twins = {"state_dict": NET, "state_dict_ema": NET}
    with pytest.raises(InputError, match="name the part with prefix='state_dict_ema'"):
        find(NET, twins)
    assert find(NET, twins, "state_dict_ema").part == "state_dict_ema"
    twice = renamed(NET, "left") | renamed(NET, "right")
    with pytest.raises(InputError, match="'' as 'left' and '' as 'right'; load one place by its"):
        find(twice, {"": NET})


def test_few_and_none_are_refused() -> None:
    with pytest.raises(InputError, match="none of its 2 tensors has the name and shape of one"):
        find(NET, {"": {"a.weight": (3, 3), "step": ()}})
    with pytest.raises(InputError, match="none of its 0 tensors"):
        find(NET, {})
    with pytest.raises(InputError, match="none of its 7 tensors under 'teacher'"):
        find(NET, {"": NET}, "teacher")
    other = {name: (99, *shape[1:]) for name, shape in NET.items()} | {"norm.bias": (8,)}
    with pytest.raises(InputError, match="at most 1 of the network's 7 tensors fit"):
        find(NET, {"": other})


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        ((4, 2, 3, 3), (4, 2, 3, 3), "same"),
        ((), (), "same"),
        ((4, 2, 5, 3, 3), (4, 2, 3, 3), "lift"),
        ((4, 2, 3, 3), (4, 2, 5, 3, 3), "flatten"),
        ((4, 2, 3, 3, 3), (4, 1, 3, 3), None),
        ((4, 2, 3, 3, 3), (4, 2, 5, 3, 3), None),
        ((4,), (4, 1), None),
    ],
)
def test_shapes_are_compared(target: Shape, source: Shape, expected: str | None) -> None:
    assert relation(target, source) == expected


def test_a_match_translates_names() -> None:
    match = Match("", "module", "body", (), {}, 0)
    assert match.here("module.conv.weight") == "body.conv.weight"
    assert match.here("modules.conv.weight") is None
    assert str(match) == "'module' of the checkpoint is 'body' of the network"
