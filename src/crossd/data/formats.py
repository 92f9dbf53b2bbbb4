"""The name that `crossd.data.io.read` had in version 0.1, for scripts of that time."""

import warnings

from crossd.data.io.read import flat, holds_volume, read, read_header

__all__ = ["flat", "holds_volume", "read", "read_header"]

warnings.warn("crossd.data.formats is now crossd.data.io.read", DeprecationWarning, stacklevel=2)
