"""What the package promises as a whole: light imports, public names, one version."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import crossd

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "crossd"
CORE = ("nn.conv", "conversion.convert", "checkpoint", "foreign", "hub", "exporting")
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


def listed_modules() -> list[str]:
    """Return the modules of the map of the code, in its order."""
    text = (ROOT / "docs" / "contributors.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def imported_modules(name: str) -> set[str]:
    """Return what of crossd a module imports when it is imported itself."""
    path = SOURCE / f"{name.replace('.', '/')}.py"
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "crossd":
            base = str(node.module).removeprefix("crossd").strip(".")
            inner = {f"{base}.{alias.name}".strip(".") for alias in node.names}
            found |= {one for one in inner if one in listed_modules()} or {base or "crossd"}
    return found - {"crossd"}


def test_the_map_of_the_code_has_every_module_once() -> None:
    modules = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in SOURCE.rglob("*.py")
        if not path.name.startswith("__")
    }
    assert sorted(listed_modules()) == sorted(modules)


def test_imports_point_upwards_on_the_map() -> None:
    order = {name: place for place, name in enumerate(listed_modules())}
    order["data"] = order["data.source"]
    for name in listed_modules():
        for other in imported_modules(name):
            together = name.startswith("data.") and other.startswith("data.")
            assert together or order[other] < order[name], f"{name} imports {other}, below it"
