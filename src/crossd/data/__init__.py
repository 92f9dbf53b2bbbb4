"""Labelled images and volumes: one string names a source, the kind is found by looking.

Items are dictionaries of tensors in the order channel, depth, height, width. A volume is
oriented so that its axes run to superior, anterior and right (RAS reversed).
"""

from crossd.data.samples import Sample, Samples
from crossd.data.slicing import as_images, slices
from crossd.data.source import Source, limit, open_source, require_rank

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
