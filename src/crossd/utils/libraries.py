"""Which libraries are installed, told without importing any of them."""

import platform
from importlib import metadata

LIBRARIES = (
    "torch",
    "numpy",
    "safetensors",
    "lightning-fabric",
    "monai",
    "timm",
    "torchvision",
    "torchmetrics",
    "scikit-learn",
    "scipy",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "pillow",
    "medmnist",
    "nilearn",
    "matplotlib",
    "markdown-it-py",
    "jsonargparse",
    "rich",
    "PyYAML",
    "psutil",
    "tensorboard",
    "huggingface_hub",
    "shtab",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "highdicom",
    "wandb",
    "mlflow",
)
"""Those that crossd works with, whether it needs them or can use them."""


def version(name: str) -> str | None:
    """Return the version of a library; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python, of crossd and of the libraries that are installed.

    Example:
        >>> sorted(versions())[-1] in LIBRARIES
        True
    """
    known = {name: version(name) for name in ("crossd", *LIBRARIES)}
    found = {name: one for name, one in known.items() if one is not None}
    return {"python": platform.python_version(), **found}
