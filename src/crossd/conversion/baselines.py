"""The rivals: 2D networks lifted to plain 3D ones, and ACS convolutions."""

from typing import Any

from torch import nn

from crossd.conversion.building import built, rank_of
from crossd.conversion.convert import convert, recipe
from crossd.conversion.decisions import Decisions
from crossd.conversion.plain import to_3d
from crossd.conversion.report import account
from crossd.conversion.rules import Options
from crossd.errors import InputError

__all__ = ["acs", "center", "inflate", "triplanar"]


def inflate(model: nn.Module, spread: bool = True) -> nn.Module:
    """Lift a 2D network to a 3D one, its kernels spread evenly over depth (I3D).

    Args:
        model: A 2D network. It is not changed.
        spread: Whether convolutions smaller than their stride see every slice too.

    Source: Carreira & Zisserman 2017, arXiv 1705.07750.
    """
    return _lifted(model, "inflate", spread)


def center(model: nn.Module, spread: bool = True) -> nn.Module:
    """Lift a 2D network to a 3D one, its kernels at the central slice.

    Args:
        model: A 2D network. It is not changed.
        spread: Whether layers that stride along depth start as means over slices, so that none is
            dropped; False leaves out all slices that the central ones do not meet.
    """
    return _lifted(model, "center", spread)


def triplanar(model: nn.Module, spread: bool = True) -> nn.Module:
    """Lift a 2D network to a 3D one: the mean of the central placement in three planes.

    Args:
        model: A 2D network. It is not changed.
        spread: As of `center`, in each of the planes.
    """
    return _lifted(model, "triplanar", spread)


def _lifted(model: nn.Module, how: str, spread: bool) -> nn.Module:
    cross = convert(model, "projection", lift=how, check=False, spread=spread)
    net: Any = to_3d(cross)
    why = f"projection, lifted by {how!r}"
    net.conversion = account(model, net, why, net.conversion.checks)
    return net


def acs(model: nn.Module) -> nn.Module:
    """Turn a 2D network into one with ACS convolutions, which takes images and volumes.

    Args:
        model: A 2D network. It is not changed.

    Raises:
        InputError: "ACS is for 2D networks ..." for another one.

    Source: Yang et al. 2021, arXiv 1911.10477.
    """
    if rank_of(model) != 2:
        raise InputError("ACS is for 2D networks: this one is made for volumes")
    choice = Decisions(spread=False)
    net: Any = built(model, 2, Options("acs"), choice)
    net.crossd_recipe = recipe("acs", "projection", {}, choice)
    net.conversion = account(model, net, "kept in 2D")
    return net
