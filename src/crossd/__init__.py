"""crossd: one set of 3D kernels, trained on images, used on volumes."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crossd.activations import checkpoint_activations
    from crossd.checkpoint import WeightsConfig, load, load_reference, save
    from crossd.conversion import acs, center, convert, inflate, to_2d, to_3d, triplanar
    from crossd.errors import InputError
    from crossd.exporting import export
    from crossd.foreign import load_checkpoint
    from crossd.hub import from_pretrained, push_to_hub, save_pretrained
    from crossd.kernels import view
    from crossd.layers import channels_last
    from crossd.nn import CrossDConv, CrossDConvTranspose
    from crossd.policies import recalibrate
    from crossd.rules import rule

_HOMES = {
    "CrossDConv": "nn",
    "CrossDConvTranspose": "nn",
    "InputError": "errors",
    "WeightsConfig": "checkpoint",
    "acs": "conversion",
    "center": "conversion",
    "channels_last": "layers",
    "checkpoint_activations": "activations",
    "convert": "conversion",
    "from_pretrained": "hub",
    "export": "exporting",
    "inflate": "conversion",
    "load": "checkpoint",
    "load_checkpoint": "foreign",
    "load_reference": "checkpoint",
    "push_to_hub": "hub",
    "recalibrate": "policies",
    "rule": "rules",
    "save": "checkpoint",
    "save_pretrained": "hub",
    "to_2d": "conversion",
    "to_3d": "conversion",
    "triplanar": "conversion",
    "view": "kernels",
}

__all__ = [
    "CrossDConv",
    "CrossDConvTranspose",
    "InputError",
    "WeightsConfig",
    "acs",
    "center",
    "channels_last",
    "checkpoint_activations",
    "convert",
    "export",
    "from_pretrained",
    "inflate",
    "load",
    "load_checkpoint",
    "load_reference",
    "push_to_hub",
    "recalibrate",
    "rule",
    "save",
    "save_pretrained",
    "to_2d",
    "to_3d",
    "triplanar",
    "view",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import crossd` is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'crossd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"crossd.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return sorted([*__all__, "__version__"])
