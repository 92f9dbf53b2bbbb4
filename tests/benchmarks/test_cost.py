"""The benchmark: what it builds is what it says, and its arithmetic."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import normal, some
from torch import nn

import crossd
from crossd.errors import InputError
from crossd.utils.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cost
import cost_tables
import given_back
from cost import ARMS, LAYERS, Case, CostConfig, arm, fitting, timed

QUIET = Progress(quiet=True)


class Tiny(nn.Module):
    """A network that takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.norm(self.conv(x)))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "network", lambda name: Tiny())
    monkeypatch.setattr(cost, "BUILT", {})
    monkeypatch.setattr(cost, "LAYERS", {"3 to 4": (3, 4, 3, 1, 6)})
    monkeypatch.setattr(cost, "MOST", 3)


def run(folder: Path, **options: Any) -> dict[str, Any]:
    config = CostConfig(**{"sizes": "32", "out": str(folder), "overwrite": True, **options})
    cost.measure(config, QUIET)
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    some(
        ["plain-nhwc", "projection", "fourier", "acs", "fft"],
        ["plain-nhwc", "projection", "fourier"],
    ),
)
def test_arms_keep_the_function_of_the_plain_network(name: str) -> None:
    case = Case("resnet18", "64", 2, CostConfig())
    plain, other = case.plain().eval(), arm(name, case.plain()).eval()
    x = case.images()
    with torch.inference_mode():
        torch.testing.assert_close(other(fitting(name, x)), plain(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [3, 7])
def test_the_fft_arm_is_the_fourier_mode(size: int) -> None:
    layer = nn.Conv2d(3, 4, size, 2, size // 2, bias=False)
    nets = {name: arm(name, layer) for name in ("fourier", "fft")}
    for net in nets.values():  # the same poses, not all of them zero
        for i, parameter in enumerate(net.parameters()):
            parameter.data = normal(*parameter.shape, seed=i, dtype=torch.float32)
    x = normal(3, 3, 9, 9, dtype=torch.float32)
    for net in nets.values():
        net.zero_grad()
        net(x).square().sum().backward()
    torch.testing.assert_close(nets["fft"](x), nets["fourier"](x), rtol=1e-3, atol=1e-3)
    pairs = list(zip(nets["fft"].parameters(), nets["fourier"].parameters(), strict=True))
    # The bias before a BatchNorm has no gradient but rounding, so one scale serves all.
    scale = max(float(b.grad.abs().max()) for _, b in pairs if b.grad is not None)
    for a, b in pairs:
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad / scale, b.grad / scale, rtol=0, atol=1e-3)


def test_i3d_takes_images_as_volumes_of_one_slice() -> None:
    case = Case("resnet18", "64", 2, CostConfig())
    net = arm("i3d", case.plain()).eval()
    assert not any(isinstance(m, crossd.CrossDConv) for m in net.modules())
    assert net(fitting("i3d", case.images())).shape == (2, 1000)


def test_layers_are_those_of_a_resnet18() -> None:
    net = cost.network("resnet18")
    seen = set()

    def note(module: Any, given: Any, _: Any) -> None:
        if module.kernel_size != (1, 1):
            size = given[0].shape[-1]
            seen.add(
                (
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size[0],
                    module.stride[0],
                    size,
                )
            )

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    net.eval()(torch.zeros(1, 3, 224, 224))
    assert seen == set(LAYERS.values())


def test_ratios_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    # Seconds of plain and other in each round; the first of each warms up.
    durations = iter([9, 9, 1, 2, 10, 40, 100, 300])

    def work() -> None:
        nonlocal clock
        clock += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    rows = timed({"plain": work, "other": work}, CostConfig(seconds=0.5))
    assert [(r["arm"], r["ms"], r["ratio"], r["rounds"]) for r in rows] == [
        ("plain", 10_000, 1, 3),
        ("other", 40_000, 3, 3),
    ]


def test_the_fft_is_left_out_where_it_would_take_minutes() -> None:
    assert "fft" in cost._worth(ARMS, Case("resnet18", "64", 8, CostConfig()))
    assert "fft" not in cost._worth(ARMS, Case("resnet18", "64", 32, CostConfig()))


@pytest.mark.slow
def test_i3d_is_left_out_where_one_slice_is_too_thin() -> None:
    assert "i3d" in cost._worth(ARMS, Case("resnet50", "64", 8, CostConfig()))
    case = Case("unet", "32", 1, CostConfig())
    for name in cost._worth(ARMS, case):
        arm(name, case.plain()).eval()(fitting(name, case.images()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_tables_of_layers_and_networks(tiny: None, tmp_path: Path, precision: str) -> None:
    options = {"tables": "layers,networks", "batch_sizes": "2", "arms": ",".join(ARMS)}
    results = run(tmp_path / "out", precision=precision, **options)
    for key in ("layers", "networks"):
        rows = results[key]
        assert {(row["pass"], row["arm"]) for row in rows} == {
            (what, name) for what in ("forward", "training step") for name in ARMS
        }
        for row in rows:
            assert row["ms"] > 0 and row["ratio"] > 0 and row["rounds"] == 3
            assert row["ratio"] == 1 or row["arm"] != "plain"
    about = results["about"]
    assert about["config"]["precision"] == precision and about["versions"]["torch"]
    assert about["machine"] and about["date"].endswith("UTC")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| resnet18, 32 | 2 |" in text and "| 3 to 4 | 2 |" in text
    assert (tmp_path / "out" / "bench.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_memory_is_measured_in_processes(tmp_path: Path) -> None:
    arms = "plain,projection"
    results = run(tmp_path / "out", tables="memory", arms=arms, batch_sizes="2")
    plain, cross = results["networks"]
    assert plain["ratio"] == plain["network_ratio"] == 1
    assert 50 < plain["mib"] < cross["mib"] < 20_000
    assert 1 < cross["ratio"] < cross["network_ratio"] < 10


@pytest.mark.slow
def test_volumes_are_measured_against_networks_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "VOLUMES", {"unet": cost._solid_unet})
    monkeypatch.setattr(cost, "SHAPES", ((1, 1, 16, 32, 32),))
    results = run(tmp_path / "out", tables="volumes")
    rows = results["volumes"]
    assert [row["arm"] for row in rows] == ["plain", "folded"] * 2
    assert "| unet, 16x32x32 | 1 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", some(cost.VOLUMES, ["resnet18"]))
def test_what_is_compared_on_volumes_is_one_network(name: str) -> None:
    """But for shortcuts that see every slice."""
    solid, folded = cost.VOLUMES[name]()
    own, theirs = solid.state_dict(), folded.state_dict()
    assert [(key, t.shape) for key, t in own.items()] == [(k, t.shape) for k, t in theirs.items()]
    x = torch.randn(1, 1, 32, 40, 48)
    solid.load_state_dict(theirs)
    with torch.no_grad():
        torch.testing.assert_close(solid.eval()(x), folded.eval()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": "projection"}, "--arms must hold plain"),
        ({"arms": "plain,none"}, "--arms: unknown"),
        ({"networks": "vgg"}, "--networks: unknown"),
        ({"tables": "all"}, "--tables: unknown"),
        ({"sizes": "224,x"}, r"--sizes \(='224,x'\) must be whole numbers of at least 32"),
        ({"sizes": "16"}, "--sizes"),
        ({"batch_sizes": "0"}, "--batch-sizes"),
        ({"batch_sizes": ""}, "--batch-sizes"),
        ({"seconds": 0.0}, "--seconds"),
        ({"device": "tpu"}, "--device"),
        ({"precision": "64-true"}, "--precision"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--device cuda: torch finds no CUDA device"):
        run(tmp_path / "out", device="cuda")


def test_a_result_is_not_overwritten(tiny: None, tmp_path: Path) -> None:
    run(tmp_path / "out", tables="layers", arms="plain")
    assert not (tmp_path / "out" / "bench.png").exists()  # nothing to compare
    with pytest.raises(InputError, match="already holds a result"):
        run(tmp_path / "out", tables="layers", arms="plain", overwrite=False)


def test_a_table_with_missing_cells() -> None:
    rows = [
        {"case": "a", "batch": 8, "pass": "forward", "arm": "plain", "ms": 1234.5, "ratio": 1.0},
        {"case": "a", "batch": 8, "pass": "forward", "arm": "fft", "ms": 1.0, "ratio": 32.4},
        {"case": "b", "batch": 32, "pass": "forward", "arm": "plain", "ms": 2.0, "ratio": 1.0},
    ]
    lines = cost_tables._table(rows, "ms")
    assert lines[0] == "| | batch | plain [ms] | fourier by FFT |"
    assert lines[2:] == ["| a | 8 | 1,234.5 | 32.40 |", "| b | 32 | 2.0 |  |"]


def test_giving_back_is_harmless() -> None:
    kept = torch.ones(1000)
    given_back.give_back_memory()
    assert kept.sum() == 1000
