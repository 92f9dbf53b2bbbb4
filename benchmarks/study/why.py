"""Why 3D kernels say less of adrenals than slices do: one network, asked in ways that lie between.

    python benchmarks/study/why.py --data FOLDER --sets adrenal

A slab is a slice with its neighbours, the outer ones of which are repeated to fill the volume. Of
one slice it is, by the law of consistency, what the 2D kernels see; of all slices it is the volume.
Between them lies what depth costs. The others change one thing each: which slices are looked at,
what lies beyond the ends, and over what features are averaged. Nothing is trained here; the
weights are those of the study. Raw results go to `results/why-SET.json`.

`--about shares` asks another thing: what a mean of volume and slices gains where their shares are
others than a half each.
"""

import argparse
import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from arms import contest
from sets import Study
from study import RESULTS, read_rows, scored, write_rows
from torch import Tensor, nn

from crossd.conversion.checking.perturbed import Ends
from crossd.conversion.plain import to_3d
from crossd.inference.slice_ensemble import Both, Ensemble, OrientationMean, SliceNet
from crossd.nn.views import replicated_ends
from crossd.training import validate
from crossd.weights.weights_file import load

PLACES = (1, 2, 3)
"""Quarters of an axis about which slabs lie, as training slices do."""


THICKNESSES = (1, 7)
"""Slices of a slab."""


class Slabs(Ensemble):
    """Ask a Cross-D network about slabs of so many slices, three an axis.

    Args:
        net: The network.
        thickness: Slices of a slab.
        endless: Whether the outer slices are repeated beyond the ends too, in place of zeros: then
            a slab of one is what the 2D kernels see.
    """

    def __init__(self, net: nn.Module, thickness: int, endless: bool = False) -> None:
        super().__init__(net)
        self.thickness = thickness
        self.endless = endless

    def _answers(self, x: Tensor) -> Tensor:
        answers = []
        for axis in range(3):
            depth = x.shape[2 + axis]
            for place in PLACES:
                middle = depth * place // 4
                first = max(0, middle - self.thickness // 2)
                last = min(depth - 1, middle + (self.thickness - 1) // 2)
                seen = torch.arange(depth).clamp(first, last)
                slab = x.index_select(2 + axis, seen)
                with endless((axis,) if self.endless else ()):
                    answers.append(self.net(slab))
        return torch.stack(answers)


class Foreground(nn.Module):
    """Average the last features over where the volume holds something, in place of everywhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.mask: Tensor | None = None
        for module in self.net.modules():
            if isinstance(module, nn.AdaptiveAvgPool3d):
                module.register_forward_hook(self._over_foreground)

    def _over_foreground(self, module: nn.Module, given: tuple[Tensor], answer: Tensor) -> Tensor:
        (x,) = given
        assert self.mask is not None
        weight = F.interpolate(self.mask, x.shape[2:], mode="area")
        total = weight.sum((2, 3, 4), keepdim=True).clamp_min(1e-6)
        return (x * weight).sum((2, 3, 4), keepdim=True) / total

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes, whose background is their least value."""
        self.mask = (x > x.amin((1, 2, 3, 4), keepdim=True)).any(1, keepdim=True).to(x.dtype)
        answer: Tensor = self.net(x)
        return answer


@contextlib.contextmanager
def endless(axes: tuple[int, ...]) -> Iterator[None]:
    """Let Cross-D networks see the last slices along axes repeated, in place of zeros."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replicated_ends(axes))
        for axis in axes:
            stack.enter_context(Ends(axis))
        yield


class Endless(nn.Module):
    """A Cross-D network that sees volumes whose ends are repeated along all axes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes."""
        with endless((0, 1, 2)):
            answer: Tensor = self.net(x)
        return answer


class Shared(Both):
    """Average what a network says of a volume and of its slices, the volume with a share.

    Args:
        net: A Cross-D network.
        quarters: The share of the volume, in quarters.
    """

    def __init__(self, net: nn.Module, quarters: int) -> None:
        super().__init__(net)
        self.quarters = quarters

    def _answers(self, x: Tensor) -> Tensor:
        volume, slices = super()._answers(x)
        return torch.stack([volume] * self.quarters + [slices] * (4 - self.quarters))


def shares(net: nn.Module) -> dict[str, Callable[[], nn.Module]]:
    """Name what is asked of volume and slices together."""
    ways: dict[str, Callable[[], nn.Module]] = {"slices": lambda: SliceNet(net)}
    for n in (1, 2, 3):
        ways[f"volume {n}/4, slices {4 - n}/4"] = functools.partial(Shared, net, n)
    return {**ways, "volume": lambda: net}


def causes(net: nn.Module) -> dict[str, Callable[[], nn.Module]]:
    """Name what is asked."""
    solid: Any = to_3d(net)
    return {
        "9 slices": lambda: SliceNet(net),
        "volume": lambda: solid,
        "volume, ends repeated": lambda: Endless(net),
        "volume, features of the foreground": lambda: Foreground(solid),
        "volume in three orientations": lambda: OrientationMean(solid),
        **{
            f"9 slabs of {n}": (lambda n=n: Slabs(net, n))  # type: ignore[misc]
            for n in THICKNESSES
        },
        "9 slabs of 1, ends repeated": lambda: Slabs(net, 1, endless=True),
    }


ABOUT = {"causes": causes, "shares": shares}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default="adrenal", help="separated by commas")
    parser.add_argument("--about", choices=ABOUT, default="causes", help="what is asked")
    parser.add_argument("--trained", default="projection,projection-drawn", help="2D trainings")
    parser.add_argument("--seeds", default="0,1", help="separated by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="work in progress")
    parser.add_argument("--results", type=Path, default=RESULTS, help="raw results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sets.split(","):
        study = Study(args.data, name, args.work)
        ready = contest(study, ("projection",))
        path = args.results / f"why-{name}.json"
        rows = read_rows(path)
        every = itertools.product(map(int, args.seeds.split(",")), args.trained.split(","))
        for seed, trained in every:
            net = load(study.weights(trained, seed))
            for what, make in ABOUT[args.about](net).items():
                mark = {"about": args.about, "trained": trained, "seed": seed, "way": what}
                if any(mark.items() <= row.items() for row in rows):
                    continue
                asked = copy.deepcopy(make())
                validate.recalibrate(asked, ready.source.train, ready.budget)
                found = {part: scores["auc"] for part, scores in scored(asked, ready).items()}
                rows.append({**mark, **found})
                print(rows[-1], flush=True)
                write_rows(path, rows)


if __name__ == "__main__":
    main()
