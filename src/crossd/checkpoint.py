"""The name that `crossd.weights.weights_file` had in version 0.1, for scripts of that time."""

import warnings

from crossd.weights.weights_file import load, read_config, save

__all__ = ["load", "read_config", "save"]

warnings.warn(
    "crossd.checkpoint is now crossd.weights.weights_file", DeprecationWarning, stacklevel=2
)
