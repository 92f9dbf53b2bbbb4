"""The device of answers: what Lightning's Fabric does there, without importing it."""

import subprocess
import sys

import pytest
import torch
from lightning_fabric import Fabric

from crossd.utils.one_device import OneDevice, slowness


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_computes_where_and_as_fabric_does(precision: str) -> None:
    here, fabric = OneDevice(precision), Fabric(devices=1, precision=precision)  # type: ignore[arg-type]
    assert here.device.type == fabric.device.type
    one, other = torch.randn(2, 3, 3)
    with here.autocast():
        own = here.to_device(one) @ here.to_device(other)
    with fabric.autocast():
        theirs = fabric.to_device(one) @ fabric.to_device(other)
    assert own.dtype == theirs.dtype and torch.equal(own, theirs)
    assert own.dtype == (torch.float32 if precision == "32-true" else torch.bfloat16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_half_precision_on_a_cpu_is_said_and_replaced() -> None:
    with pytest.warns(UserWarning, match="16-mixed is for GPUs"):
        here = OneDevice("16-mixed")
    with here.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_predict_waits_for_no_library_that_trains() -> None:
    code = "import sys, crossd.cli.predict; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "crossd.cli.predict" in found
    assert not {"lightning_fabric", "torchmetrics", "matplotlib", "sklearn"} & set(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("machine", "capability", "precision", "slow"),
    [
        ("x86_64", "AVX2", "bf16-mixed", True),
        ("x86_64", "AVX2", "32-true", False),
        ("x86_64", "AVX512", "bf16-mixed", False),
        ("aarch64", "DEFAULT", "bf16-mixed", False),
    ],
)
def test_a_precision_that_the_processor_emulates_is_said(
    machine: str, capability: str, precision: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert bool(slowness(precision)) == slow
    assert not slow or f"--precision {precision}: this processor" in slowness(precision)
