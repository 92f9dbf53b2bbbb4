"""Data: what a source of labelled images or volumes is, and opening one.

Items are dictionaries of tensors in the order channel, depth, height, width. A volume is
oriented so that its axes run to superior, anterior and right (RAS reversed).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossd.data.dataset import Sample, Samples
    from crossd.data.opening import open_source
    from crossd.data.slicing import as_images, slices
    from crossd.data.source import Source, limit, require_rank

_HOMES = {
    "Sample": "dataset",
    "Samples": "dataset",
    "Source": "source",
    "as_images": "slicing",
    "limit": "source",
    "open_source": "opening",
    "require_rank": "source",
    "slices": "slicing",
}

__all__ = [
    "Sample",
    "Samples",
    "Source",
    "as_images",
    "limit",
    "open_source",
    "require_rank",
    "slices",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: files of this room do not import it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'crossd.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crossd.data.{_HOMES[name]}"), name)
