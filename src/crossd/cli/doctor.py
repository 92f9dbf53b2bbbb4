"""`crossd doctor`: what this installation and this machine can do, and what is missing for more.

It must run where things are missing, so every library is looked for before it is asked.
"""

import json
import os
import platform
import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from crossd import __version__
from crossd.cli.options import DoctorConfig
from crossd.errors import InputError

ESSENTIAL = ("torch", "numpy", "safetensors")
FEATURES = (
    # what, modules it needs, how to get them
    (
        "training and use of networks",
        ("lightning_fabric", "torchmetrics", "sklearn", "scipy", "psutil"),
        "crossd[all]",
    ),
    ("networks by name", ("timm", "torchvision", "monai"), "crossd[all]"),
    ("the command line", ("jsonargparse", "docstring_parser", "rich", "yaml"), "crossd[all]"),
    ("reports with pictures", ("matplotlib", "markdown_it", "PIL"), "crossd[all]"),
    ("the brain source", ("nilearn",), "crossd[all]"),
    ("MedMNIST", ("medmnist",), "crossd[all]"),
    ("shell completion", ("shtab",), "crossd[all]"),
    ("sharing networks on a hub", ("huggingface_hub",), "crossd[all]"),
    ("logging to TensorBoard", ("tensorboard",), "crossd[all]"),
    ("export to ONNX", ("onnx", "onnxruntime", "onnxscript"), "crossd[onnx]"),
    ("DICOM SEG", ("highdicom",), "crossd[dicom]"),
    ("logging to Weights & Biases", ("wandb",), "wandb"),
    ("logging to MLflow", ("mlflow",), "mlflow"),
)
FORMATS = (
    (".npz", ("numpy",)),
    ("NIfTI (.nii, .nii.gz)", ("nibabel",)),
    ("NRRD, MetaImage (.nrrd, .nhdr, .mha, .mhd)", ("SimpleITK",)),
    ("DICOM (files and series)", ("SimpleITK", "pydicom")),
    ("PNG, JPEG, TIFF and what else PIL reads", ("PIL",)),
)
LIBRARIES = dict.fromkeys(
    name
    for needs in (ESSENTIAL, *(needs for _, needs, _ in FEATURES), *(needs for _, needs in FORMATS))
    for name in needs
)
"""The modules of all of these, whose versions are listed."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""What is installed for modules of other names."""

GIB = 2**30
YES, NO = "yes", "no"


def doctor(config: DoctorConfig, progress: object = None) -> str:
    """Look at the machine and the installation; returns what to print.

    Raises:
        InputError: When something that everything needs is missing; what was found is printed
            before.
    """
    found = examine(config.out)
    shown = json.dumps(found, indent=2) if config.json else "\n".join(_lines(found))
    missing = found["missing"]
    if missing:
        print(shown)
        raise InputError(f"{', '.join(missing)} cannot be imported: pip install crossd")
    return shown


def examine(out: str = "runs") -> dict[str, Any]:
    """Look at everything.

    Args:
        out: The folder that results would be written to.

    Returns:
        What JSON can hold.

    Example:
        >>> examine()["missing"]
        []
    """
    missing = [name for name in ESSENTIAL if not _works(name)]
    return {
        "crossd": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "missing": missing,
        "machine": _machine(out),
        "devices": [] if "torch" in missing else _devices(),
        "libraries": {
            name: _version(name) for name in (DISTRIBUTIONS.get(one, one) for one in LIBRARIES)
        },
        "formats": {name: all(map(_there, needs)) for name, needs in FORMATS},
        "features": [
            {"what": what, "lacks": lacks, "install": f"pip install '{source}'" if lacks else ""}
            for what, needs, source in FEATURES
            for lacks in [[name for name in needs if not _there(name)]]
        ],
        "folders": [
            {"what": what, "path": str(path), "writable": _writable(path)}
            for what, path in _folders(out)
        ],
    }


def _works(name: str) -> bool:
    try:
        __import__(name)
    except Exception:  # a broken installation raises anything
        return False
    return True


def _there(name: str) -> bool:
    return util.find_spec(name) is not None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine(out: str) -> dict[str, object]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if _there("psutil"):
        from crossd.utils.memory import available

        memory = round(available() / GIB, 1)
    return {
        "cores": cores,
        "free_memory_gib": memory,
        "free_disk_gib": round(shutil.disk_usage(_existing(Path(out))).free / GIB, 1),
    }


def _devices() -> list[dict[str, object]]:
    """List what torch can compute on, with the memory of each."""
    import torch

    devices: list[dict[str, object]] = [{"name": "cpu", "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "model": facts.name,
                "memory_gib": round(facts.total_memory / GIB, 1),
                "bfloat16": bool(torch.cuda.is_bf16_supported()),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": "Apple GPU"})
    return devices


def _folders(out: str) -> list[tuple[str, Path]]:
    """List the folders that crossd and its libraries write to."""
    home = Path.home()
    hub = Path(os.environ.get("HF_HOME", home / ".cache" / "huggingface"))
    torch_home = Path(os.environ.get("TORCH_HOME", home / ".cache" / "torch"))
    return [
        ("results (--out)", Path(out)),
        ("weights of timm and the hub", hub),
        ("weights of torchvision", torch_home),
        ("MedMNIST", home / ".medmnist"),
    ]


def _existing(path: Path) -> Path:
    """Return the nearest folder above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _writable(path: Path) -> bool:
    near = _existing(path)
    return near.is_dir() and os.access(near, os.W_OK | os.X_OK)


def _lines(found: dict[str, Any]) -> list[str]:
    """Put what was found in lines for people."""
    machine = found["machine"]
    memory = machine["free_memory_gib"]
    lines = [
        f"crossd {found['crossd']}, Python {found['python']} ({found['executable']})",
        f"{found['system']}, {machine['cores']} cores, "
        + (f"{memory} GiB of memory and " if memory is not None else "")
        + f"{machine['free_disk_gib']} GiB of disk free",
        "",
        "devices",
    ]
    for one in found["devices"]:
        count = one.get("threads", 0)
        more = [one["model"]] if "model" in one else [f"{count} thread{'s' * (count > 1)}"]
        more += [f"{one['memory_gib']} GiB"] if "memory_gib" in one else []
        lines.append(f"  {one['name']}: {', '.join(more)}")
    if len(found["devices"]) == 1:
        lines.append("  no GPU that torch can use")
    lines += ["", "libraries"]
    known = [(name, version) for name, version in found["libraries"].items() if version]
    width = max(len(name) for name, _ in known) if known else 0
    lines += [f"  {name:<{width}}  {version}" for name, version in known]
    lines += ["", "files that can be read"]
    lines += [f"  {NO if not able else YES:<3}  {name}" for name, able in found["formats"].items()]
    lines += ["", "folders that can be written to"]
    lines += [
        f"  {YES if one['writable'] else NO:<3}  {one['path']}: {one['what']}"
        for one in found["folders"]
    ]
    lacking = [one for one in found["features"] if one["lacks"]]
    lines += ["", "what is missing for more" if lacking else "nothing is missing"]
    for one in lacking:
        lines.append(f"  {one['what']} lacks {', '.join(one['lacks'])}: {one['install']}")
    lines += ["", "crossd works" if not found["missing"] else "crossd does not work"]
    return lines
