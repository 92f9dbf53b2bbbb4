"""The account of a conversion, on networks small enough to list by hand."""

import torch
from torch import Tensor, nn

from crossd.conversion.report import ConversionReport, Entry, account, tensors


class Counted(nn.Module):
    """A layer with a scalar buffer, a hidden buffer and a parameter."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 3))
        self.register_buffer("steps", torch.tensor(4))
        self.register_buffer("hidden", torch.zeros(5), persistent=False)


def by_name(report: ConversionReport) -> dict[str, Entry]:
    return {entry.name: entry for entry in report.entries}


def test_every_action_has_its_entry() -> None:
    before, after = nn.Sequential(nn.Linear(2, 3), Counted()), nn.Sequential()
    after.add_module("0", nn.Linear(4, 3))
    after.add_module("1", nn.Linear(1, 1))
    after[0].bias = before[0].bias
    report = account(before, after, "widened")
    assert report.entries == (
        Entry("0.weight", "changed", (3, 2), (3, 4), "widened"),
        Entry("0.bias", "copied", (3,), (3,)),
        Entry("1.scale", "dropped", (2, 3), None),
        Entry("1.steps", "dropped", (), None),
        Entry("1.hidden", "dropped", (5,), None),
        Entry("1.weight", "added", None, (1, 1), "new"),
        Entry("1.bias", "added", None, (1,), "new"),
    )
    assert report.counts() == {"changed": 1, "copied": 1, "dropped": 3, "added": 2}


def test_equal_shapes_with_other_values_are_changed() -> None:
    before, after = nn.Linear(2, 2), nn.Linear(2, 2)
    after.bias = before.bias
    entries = by_name(account(before, after, "drawn anew"))
    assert entries["weight"] == Entry("weight", "changed", (2, 2), (2, 2), "drawn anew")
    assert entries["bias"].action == "copied" and entries["bias"].why == ""


def test_what_belongs_to_a_kernel_mode_says_so() -> None:
    plain, cross = nn.Module(), nn.Module()
    cross.mode = nn.Linear(1, 1, bias=False)
    assert by_name(account(plain, cross, ""))["mode.weight"].why == "new: the kernel mode's own"
    dropped = by_name(account(cross, plain, ""))["mode.weight"]
    assert dropped.action == "dropped" and "pose predictor" in dropped.why


def test_shared_tensors_stand_under_each_name() -> None:
    layer = Counted()
    net = nn.ModuleDict({"a": layer, "b": layer})
    names = [f"{key}.{name}" for key in "ab" for name in ("scale", "steps", "hidden")]
    assert sorted(tensors(net)) == sorted(names)
    assert tensors(net)["a.scale"] is tensors(net)["b.scale"]
    assert sorted(by_name(account(net, net, ""))) == sorted(names)


def test_it_prints_a_summary_and_a_line_a_tensor() -> None:
    report = ConversionReport(
        (
            Entry("conv.weight", "changed", (8, 1, 3, 3), (8, 1, 3, 3, 3), "lifted"),
            Entry("steps", "copied", (), ()),
            Entry("conv.mode.bias", "added", None, (4,), "new"),
        )
    )
    first, *lines = str(report).splitlines()
    assert first == "3 tensors: 1 changed, 1 copied, 1 added"
    assert [line.split() for line in lines] == [
        ["conv.weight", "changed", "8x1x3x3", "->", "8x1x3x3x3", "lifted"],
        ["steps", "copied", "scalar", "->", "scalar"],
        ["conv.mode.bias", "added", "-", "->", "4", "new"],
    ]
    assert len({line.index("->") - len(line.split(" -> ")[0].split()[-1]) for line in lines}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_a_note_stands_below_the_summary() -> None:
    report = ConversionReport((Entry("w", "matched", (1,), (1,)),), note="'model' is the network")
    assert str(report).splitlines()[:2] == ["1 tensors: 1 matched", "'model' is the network"]


def test_a_network_without_tensors_has_an_empty_account() -> None:
    report = account(nn.ReLU(), nn.ReLU(), "")
    assert report.entries == () and report.counts() == {}
    assert str(report) == "0 tensors: nothing"


def test_tensors_without_a_partner_are_listed_alone() -> None:
    entries = (
        Entry("a", "matched", (1,), (1,)),
        Entry("d", "adapted", (1,), (2,), "lifted"),
        Entry("b", "missing", None, (2,)),
        Entry("c", "unexpected", (3,), None),
    )
    lines = ConversionReport(entries, note="what holds for all").without_partner().splitlines()
    assert lines[0] == "4 tensors: 1 matched, 1 adapted, 1 missing, 1 unexpected"
    assert lines[1] == "what holds for all"
    assert [line.split()[0] for line in lines[2:4]] == ["b", "c"]
    assert lines[4:] == ["1 adapted: lifted"]
