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
import given_back
from cost import CostConfig
from costs import arms, cases, networks, peers, tables, timing
from costs.arms import IMAGES, VOLUMES, built, fitting
from costs.cases import LAYERS, Case

QUIET = Progress(quiet=True)
THIRD_PARTY = ("acsconv", "timm_3d", "smp_3d")
OWN = tuple(name for name in arms.ARMS if name not in THIRD_PARTY)


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
    """Replace networks and layers by small ones, and let no library of others be there."""
    layers = {"3 to 4": (3, 4, 3, 1, 6)}
    for module in (cases, arms):
        monkeypatch.setattr(module, "LAYERS", layers)
    make = lambda case: nn.Conv2d(3, 4, 3, 1, 1) if case.network in layers else Tiny()  # noqa: E731
    for module in (arms, networks, peers):
        monkeypatch.setattr(module, "flat", make)
    monkeypatch.setattr(timing, "MOST", timing.FEWEST)
    for name in ("acsconv.converters", "timm_3d", "monai.networks.nets.resnet"):
        monkeypatch.setitem(sys.modules, name, None)


def run(folder: Path, **options: Any) -> dict[str, Any]:
    small = {"sizes": "32", "batch_sizes": "2", "volumes": "1x4x6x8", "overwrite": True}
    config = CostConfig(**{**small, "out": str(folder), **options})
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
    case = Case("resnet18", (64, 64), 2)
    plain, other = built("plain", case).eval(), built(name, case).eval()
    x = case.batch_on("cpu")
    with torch.inference_mode():
        torch.testing.assert_close(other(fitting(name, x)), plain(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["3 to 64, 7x7/2, 224", "64, 3x3, 56"])
def test_the_fft_arm_is_the_fourier_mode(name: str) -> None:
    case = Case(name, (9, 9), 3)
    nets = {name: built(name, case) for name in ("fourier", "fft")}
    for net in nets.values():  # the same poses, not all of them zero
        for i, parameter in enumerate(net.parameters()):
            parameter.data = normal(*parameter.shape, seed=i, dtype=torch.float32)
    x = case.batch_on("cpu")
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
    case = Case("resnet18", (64, 64), 2)
    net = built("i3d", case).eval()
    assert not any(isinstance(m, crossd.CrossDConv) for m in net.modules())
    assert net(fitting("i3d", case.batch_on("cpu"))).shape == (2, 1000)


def test_layers_are_those_of_a_resnet18() -> None:
    case = Case("resnet18", (224, 224), 1)
    seen = set()

    def note(module: Any, given: Any, _: Any) -> None:
        if module.kernel_size != (1, 1):
            channels = (module.in_channels, module.out_channels)
            seen.add((*channels, module.kernel_size[0], module.stride[0], given[0].shape[-1]))

    net = built("plain", case)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    net.eval()(case.batch_on("cpu"))
    assert seen == set(LAYERS.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", some(["resnet18", "efficientnet-b0", "unet"], ["resnet18"]))
def test_the_plain_network_for_volumes_is_the_converted_one(name: str) -> None:
    """But for the shortcuts of ResNets, which see every slice in a converted one."""
    case = Case(name, (32, 40, 48), 1)
    solid, folded = built("plain", case), crossd.convert(networks.flat(case), spread=False)
    own, theirs = solid.state_dict(), folded.state_dict()
    assert [(key, t.shape) for key, t in own.items()] == [(k, t.shape) for k, t in theirs.items()]
    solid.load_state_dict(theirs)
    x = case.batch_on("cpu")
    with torch.no_grad():
        torch.testing.assert_close(solid.eval()(x), folded.eval()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_both_vision_transformers_attend_to_the_same_tokens() -> None:
    case = Case("vit-small", (32, 64, 64), 1, 11)
    plain, folded = built("plain", case).eval(), built("projection", case).eval()
    x = case.batch_on("cpu")
    assert plain(x).shape == folded(x).shape == (1, 11)
    counts = [sum(p.numel() for p in net.parameters()) for net in (plain, folded)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    moved = x.clone()
    moved[:, :, 20:] += 1  # another slice of tokens than the class token's neighbours
    assert not torch.equal(folded(x), folded(moved))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_of_monai_are_those_of_torchvision_but_for_their_names(name: str) -> None:
    case = Case(name, (32, 64, 64), 1)
    counts = [
        sorted(tuple(p.shape) for p in built(arm, case).parameters()) for arm in ("plain", "monai")
    ]
    conv_biases = len(counts[1]) - len(counts[0])  # MONAI's shortcuts have some
    assert conv_biases in range(5)
    assert [s for s in counts[0] if len(s) == 5] == [s for s in counts[1] if len(s) == 5]


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_a_library_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("acsconv.converters", "timm_3d", "segmentation_models_pytorch_3d"):
        monkeypatch.setitem(sys.modules, module, None)
    case = Case("unet-resnet18" if name == "smp_3d" else "resnet18", (32, 32, 32), 1)
    with pytest.raises(peers.Absent, match=r"^not installed \(.*\); see benchmarks/peers.txt$"):
        peers_of(name)(case)


def peers_of(name: str) -> Any:
    return arms.OF_OTHERS[name]


def test_networks_that_a_library_does_not_have_are_named() -> None:
    with pytest.raises(peers.Absent, match="it has no such network"):
        built("monai", Case("unet-resnet18", (32, 32, 32), 1))
    with pytest.raises(peers.Absent, match="it is the plain network"):
        built("monai", Case("unet", (32, 32, 32), 1))
    with pytest.raises(peers.Absent, match="it takes minutes"):
        built("fft", Case("resnet18", (32, 32), arms.BY_FFT + 1))


def test_ratios_are_medians_and_quartiles_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    # Seconds of each round: the ratios are 2, 4, 3, 10, 1, whichever of both is first.
    durations = {"plain": iter([1, 10, 100, 1, 5]), "other": iter([2, 40, 300, 10, 5])}

    def work(name: str) -> None:
        nonlocal clock
        clock += next(durations[name])

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    runs = {name: lambda name=name: work(name) for name in durations}
    plain, other = timing.timed(runs, 0.5, "cpu")
    assert plain == {
        **{"arm": "plain", "ms": 5_000, "rounds": 5},
        **{"ratio": 1, "low": 1, "high": 1},
    }
    assert other == {
        **{"arm": "other", "ms": 10_000, "rounds": 5},
        **{"ratio": 3, "low": 2, "high": 4},
    }


def test_the_fft_has_the_fewest_rounds_and_costs_the_others_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0

    def work(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    runs = {"plain": lambda: work(1), "fft": lambda: work(100)}
    rows = timing.timed(runs, 9.5, "cpu")
    assert [(row["arm"], row["rounds"]) for row in rows] == [("plain", 10), ("fft", timing.FEWEST)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_tables_of_layers_images_and_volumes(tiny: None, tmp_path: Path, precision: str) -> None:
    options = {"tables": "layers,images,volumes", "arms": ",".join(arms.ARMS)}
    results = run(tmp_path / "out", precision=precision, **options)
    own = {"layers": set(IMAGES), "images": set(IMAGES), "volumes": set(VOLUMES)}
    for table, expected in own.items():
        rows = [row for row in results["rows"] if row["table"] == table]
        gone = {row["arm"] for row in results["absent"] if row["table"] == table}
        assert {(row["pass"], row["arm"]) for row in rows} == {
            (what, name) for what in timing.PASSES for name in expected - gone
        }
        for row in rows:
            assert row["ms"] > 0 and row["rounds"] == timing.FEWEST
            assert 0 < row["low"] <= row["ratio"] <= row["high"]
            assert row["ratio"] == 1 or row["arm"] != "plain"
    assert {row["arm"] for row in results["absent"]} == {*THIRD_PARTY, "monai"}
    about = results["about"]
    assert about["config"]["precision"] == precision and about["versions"]["torch"]
    assert about["machine"] and about["date"].endswith("UTC")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| resnet18, 32 | 2 |" in text and "| 3 to 4 | 2 |" in text
    assert "| resnet18, 4x6x8 | 1 |" in text
    assert "- timm_3d, on resnet18, 4x6x8 (1): not installed (" in text
    assert "- segmentation_models_pytorch_3d, on resnet18, 4x6x8 (1): it has no such" in text
    assert (tmp_path / "out" / "bench.png").read_bytes()[:4] == b"\x89PNG"


def test_growth_is_that_of_the_chosen_networks(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = (Case("resnet18", (8, 8), 3), Case("unet", (4, 8, 8), 1, 20))
    monkeypatch.setattr(cases, "GROWTH", (*chosen, Case("vit-small", (32, 32), 1)))
    options = {"tables": "growth", "arms": "plain,projection", "networks": "resnet18"}
    results = run(tmp_path / "out", **options)
    assert {row["case"] for row in results["rows"]} == {"resnet18, 8"}
    assert chosen[1].name == "unet, 4x8x8, 20 classes"


def test_what_fails_is_named_and_the_others_are_measured(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: Case) -> nn.Module:
        raise RuntimeError("a library's own trouble\nin two lines")

    monkeypatch.setitem(arms.OF_OTHERS, "monai", broken)
    results = run(tmp_path / "out", tables="volumes", arms="plain,projection,monai")
    assert {row["arm"] for row in results["rows"]} == {"plain", "projection"}
    assert [(row["arm"], row["why"]) for row in results["absent"]] == [
        ("monai", "RuntimeError: a library's own trouble")
    ]


@pytest.mark.slow
def test_memory_is_measured_in_processes(tmp_path: Path) -> None:
    options = {"tables": "images,memory", "arms": "plain,projection", "seconds": 0.01}
    rows = run(tmp_path / "out", **options)["rows"]
    steps = [row for row in rows if row["pass"] == "peak memory, training step"]
    answers = [row for row in rows if row["pass"] == "peak memory, inference"]
    for plain, cross in (steps, answers):
        assert (plain["arm"], cross["arm"]) == ("plain", "projection")
        assert plain["ratio"] == plain["network_ratio"] == 1
        assert 50 < plain["mib"] < cross["mib"] < 20_000
        assert 1 < cross["ratio"] < cross["network_ratio"] < 10
    assert answers[0]["mib"] < steps[0]["mib"]
    assert "### Peak memory, inference" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": "projection"}, "--arms must hold plain"),
        ({"arms": "plain,none"}, "--arms: unknown"),
        ({"networks": "vgg"}, "--networks: unknown"),
        ({"tables": "all"}, "--tables: unknown"),
        ({"tables": "memory"}, "--tables memory is of images or volumes"),
        ({"tables": "memory,layers"}, "--tables memory is of images or volumes"),
        ({"tables": "growth", "networks": "resnet50"}, "--tables growth has nothing of"),
        ({"sizes": "224,x"}, r"--sizes \(='224,x'\) must be whole numbers of at least 32"),
        ({"sizes": "16"}, "--sizes"),
        ({"batch_sizes": "0"}, "--batch-sizes"),
        ({"batch_sizes": ""}, "--batch-sizes"),
        ({"volumes": "32x64x64"}, r"--volumes \(='32x64x64'\) must be like 2x32x64x64"),
        ({"volumes": "2x32x64x0"}, "--volumes"),
        ({"volumes": "axbxcxd"}, "--volumes"),
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


def test_an_interrupted_run_goes_on(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "out", []
    real = timing.timed

    def once(runs: Any, *rest: Any) -> Any:
        seen.append(len(runs))
        if len(seen) == 3:  # a pass of the second case
            raise KeyboardInterrupt
        return real(runs, *rest)

    monkeypatch.setattr(timing, "timed", once)
    options = {"tables": "images", "arms": "plain,projection", "sizes": "32,48"}
    resumed = {**options, "overwrite": False, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        run(folder, **options)
    assert "resnet18, 32" in (folder / "report.md").read_text()
    assert not (folder / "metrics.json").exists()
    with pytest.raises(InputError, match="did not end"):
        run(folder, **{**resumed, "resume": False})
    with pytest.raises(InputError, match="other options"):
        run(folder, **{**resumed, "sizes": "32"})
    results = run(folder, **resumed)
    assert [row["case"] for row in results["rows"]] == 4 * ["resnet18, 32"] + 4 * ["resnet18, 48"]
    assert len(seen) == 5  # both passes of the first case, one that was interrupted, two more
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run(folder, **resumed) == results
    assert (folder / "metrics.json").stat().st_mtime_ns == before

    (folder / "metrics.json").unlink()
    first = folder / "run-000.json"
    moved = json.loads(first.read_text())
    moved["on"]["machine"] = "another"
    first.write_text(json.dumps(moved))
    with pytest.raises(InputError, match="measured on another machine"):
        run(folder, **resumed)


def test_a_table_with_missing_cells() -> None:
    spread = {"pass": "inference", "low": 1.0, "high": 33.0}
    rows = [
        {"case": "a", "batch": 8, "arm": "plain", "ms": 1234.5, "ratio": 1.0, **spread},
        {"case": "a", "batch": 8, "arm": "fft", "ms": 1.0, "ratio": 32.4, **spread},
        {"case": "b", "batch": 32, "arm": "plain", "ms": 2.0, "ratio": 1.0, **spread},
        {"case": "c", "batch": 1, "arm": "fft", "ms": 7.0, "ratio": None, **spread},
    ]
    lines = tables._table(rows)
    assert lines[0] == "| | batch | plain [ms] | fourier by FFT |"
    assert lines[2:] == [
        "| a | 8 | 1,234.5 | 32.40 (1.00 to 33.00) |",
        "| b | 32 | 2.0 | – |",
        "| c | 1 | – | 7.0 ms |",
    ]


def test_giving_back_is_harmless() -> None:
    kept = torch.ones(1000)
    given_back.give_back_memory()
    assert kept.sum() == 1000
