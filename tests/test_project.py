"""What the package promises as a whole: light imports, public names, one version."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import crossd

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "crossd"
CORE = (
    *("nn.conv", "conversion.convert", "weights.weights_file", "weights.third_party"),
    *("weights.hub", "weights.export"),
)
EXTRAS = (
    "SimpleITK",
    "PIL",
    "huggingface_hub",
    "jsonargparse",
    "lightning_fabric",
    "markdown_it",
    "matplotlib",
    "medmnist",
    "monai",
    "nibabel",
    "nilearn",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "timm",
    "torchmetrics",
    "torchvision",
    "yaml",
)


def imported_by(code: str, names: tuple[str, ...]) -> list[str]:
    """Return those of `names` that a new interpreter has imported after running `code`."""
    check = f"import sys; print(*[name for name in {names!r} if name in sys.modules])"
    run = [sys.executable, "-c", f"{code}\n{check}"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()


def test_core_imports_no_extra() -> None:
    code = "\n".join(f"import crossd.{name}" for name in CORE)
    assert imported_by(code, EXTRAS) == []


def test_crossd_alone_imports_neither_torch_nor_numpy() -> None:
    assert imported_by("import crossd", ("torch", "numpy", "safetensors", *EXTRAS)) == []


def test_public_names_resolve() -> None:
    for name in crossd.__all__:
        assert getattr(crossd, name) is not None, name
    assert set(crossd.__all__) <= set(dir(crossd))


def test_functions_win_over_modules_of_the_same_name() -> None:
    # A module crossd.acs, once imported, would stand in the place of the function crossd.acs.
    imports = [f"import crossd.{name}" for name in CORE]
    check = (
        "print([name for name in crossd.__all__ if isinstance(getattr(crossd, name), ModuleType)])"
    )
    code = "\n".join(("from types import ModuleType", *imports, check))
    assert imported_by(code, ()) == ["[]"]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("crossd.checkpoint", "crossd.weights.weights_file", "read_config"),
        ("crossd.data.formats", "crossd.data.io.read", "read_header"),
    ],
)
def test_scripts_of_version_0_1_find_what_they_import(old: str, new: str, name: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        module = importlib.import_module(old)
    assert getattr(module, name) is getattr(importlib.import_module(new), name)


def test_the_command_line_is_called_as_in_version_0_1(capsys: pytest.CaptureFixture[str]) -> None:
    from crossd.cli import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("crossd ")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        crossd.no_such_name  # noqa: B018


def test_public_names_are_documented() -> None:
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: crossd\.(\w+)$", api, re.MULTILINE))
    assert documented == {name for name in crossd.__all__ if not name.startswith("__")}


def test_one_version() -> None:
    assert version("crossd") == crossd.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {crossd.__version__}\n" in citation


def rooms() -> dict[str, list[str]]:
    """Return the rooms of the map of the code with their files, in its order."""
    text = (ROOT / "docs" / "contributors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|.*?\|(.*)\|$", text, re.MULTILINE)
    return {room: re.findall(r"`(\w+)`", files) for room, files in rows}


@functools.cache
def modules() -> set[str]:
    """Return all modules of the package, but for `__init__` and `__main__`."""
    paths = (p for p in SOURCE.rglob("*.py") if not p.name.startswith("__"))
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths}


@functools.cache
def imported_modules(name: str) -> set[str]:
    """Return what of crossd a module imports, in its functions too."""
    path = SOURCE / f"{name.replace('.', '/')}.py"
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "crossd":
            base = str(node.module).removeprefix("crossd").strip(".")
            inner = {f"{base}.{alias.name}".strip(".") for alias in node.names}
            found |= {one if one in modules() else base for one in inner}
    return found


def test_the_map_of_the_code_has_every_module_once() -> None:
    listed = [
        f"{room}.{file}" if file else room
        for room, files in rooms().items()
        for file in files or [""]
    ]
    assert sorted(listed) == sorted(modules())


def test_a_room_imports_from_rooms_above_it_on_the_map() -> None:
    order = [room for room in rooms() if "." not in room]
    for name in modules():
        place = order.index(name.split(".")[0])
        for other in imported_modules(name):
            room = other.split(".")[0]
            if room:  # the package itself, for its version and public names
                assert order.index(room) <= place, f"{name} imports {other}, above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: imported_modules(name) & modules() for name in modules()}
    while left:
        ready = {name for name, needs in left.items() if not needs & set(left)}
        assert ready, f"among these is a circle: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in ready}
