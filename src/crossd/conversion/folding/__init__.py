"""Running code of one rank on the other: volumes as batches of slices, images as flat volumes."""
