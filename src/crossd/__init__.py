"""crossd: one set of 3D kernels, trained on images, used on volumes."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from crossd.conversion.adapt import recalibrate
    from crossd.conversion.baselines import acs, center, inflate, triplanar
    from crossd.conversion.convert import convert
    from crossd.conversion.cycle import cycle
    from crossd.conversion.plain import to_2d, to_3d
    from crossd.conversion.rules import rule
    from crossd.errors import InputError
    from crossd.nn.checkpointing import checkpoint_activations
    from crossd.nn.conv import CrossDConv
    from crossd.nn.conv_transpose import CrossDConvTranspose
    from crossd.nn.layers import channels_last
    from crossd.nn.views import view
    from crossd.weights.export import export
    from crossd.weights.hub import from_pretrained, push_to_hub, save_pretrained
    from crossd.weights.third_party import load_checkpoint, load_reference
    from crossd.weights.weights_file import WeightsConfig, load, save

_HOMES = {
    "CrossDConv": "nn.conv",
    "CrossDConvTranspose": "nn.conv_transpose",
    "InputError": "errors",
    "WeightsConfig": "weights.weights_file",
    "acs": "conversion.baselines",
    "center": "conversion.baselines",
    "channels_last": "nn.layers",
    "checkpoint_activations": "nn.checkpointing",
    "convert": "conversion.convert",
    "cycle": "conversion.cycle",
    "from_pretrained": "weights.hub",
    "export": "weights.export",
    "inflate": "conversion.baselines",
    "load": "weights.weights_file",
    "load_checkpoint": "weights.third_party",
    "load_reference": "weights.third_party",
    "push_to_hub": "weights.hub",
    "recalibrate": "conversion.adapt",
    "rule": "conversion.rules",
    "save": "weights.weights_file",
    "save_pretrained": "weights.hub",
    "to_2d": "conversion.plain",
    "to_3d": "conversion.plain",
    "triplanar": "conversion.baselines",
    "view": "nn.views",
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
    "cycle",
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
