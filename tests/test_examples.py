"""The examples run, on small networks and little data, and do what they say."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Any:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_slices_teach_a_classifier_about_volumes(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = example("classify").main("test_resnet", size=32, count=60, steps=40)
    assert accuracy > 0.6  # a third by chance
    assert f"right on {accuracy:.0%} of 60 new volumes" in capsys.readouterr().out


@pytest.mark.slow
def test_lifts_keep_what_they_say() -> None:
    found = example("lift").main("test_resnet", size=32)
    for lift in ("center", "inflate"):
        on_images, beside_zeros, going_on = found[lift]
        assert max(on_images, going_on) < 1e-4 < beside_zeros
    assert found["center"][1] < found["inflate"][1]
    assert found["triplanar"][0] > 1e-2


@pytest.mark.slow
def test_a_unet_segments_files() -> None:
    options = "--epochs 6 --batch-size 8 --lr 0.01 --augment light"
    assert example("segment").main("unet", (24, 20, 12), options) > 0.4


@pytest.mark.slow
def test_3d_weights_answer_on_images() -> None:
    on_volumes, found = example("back").main(size=24, count=4)
    assert on_volumes < 1e-4
    assert all(count >= 3 for count in found.values()), found  # one by chance


@pytest.mark.slow
def test_a_loop_of_ones_own() -> None:
    assert example("own_loop").main(size=16, count=8, epochs=6, accelerator="cpu") > 0.4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MONAI, on its own defaults
def test_a_training_of_monai(tmp_path: Path) -> None:
    script = example("monai_training")
    script.make(tmp_path, count=6, size=40)  # a folder of one's own
    assert script.main(str(tmp_path), epochs=16, window=32) > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning, on loggers and processes
def test_a_module_of_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossd.conversion.registry import small_resnet

    monkeypatch.syspath_prepend(EXAMPLES)
    net = small_resnet(1, 3)
    assert example("lightning_module").main(size=24, count=48, epochs=16, net=net) > 0.6


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    exec(cells[0], names)
    assert set(names) - {"__builtins__"} == {"DATA", "STEPS", "BATCH"}
    names |= {"DATA": "brain:8", "STEPS": 20}
    try:
        for number, cell in enumerate(cells[1:], start=1):
            exec(compile(cell, f"cell {number}", "exec"), names)
        assert len(plt.get_fignums()) == 2
    finally:
        plt.close("all")
    assert names["dice"] > 0.1
    assert "differs by" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
