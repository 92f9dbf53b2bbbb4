"""Files of cases: what was kept of them is not used once a file was written anew."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from crossd.data.sources.case_files import Entry, read_entries
from crossd.data.sources.case_list import Case


def entry(*images: Path, mask: Path | None = None) -> Entry:
    return read_entries([Case("one", images, mask)])[0]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("which", ["image", "mask"])
def test_the_key_of_a_volume_hangs_on_the_file_of_its_voxels(
    tmp_path: Path, suffix: str, which: str
) -> None:
    paths = {name: tmp_path / f"{name}{suffix}" for name in ("image", "mask")}
    for path in paths.values():
        ones = np.ones((4, 5, 6), np.uint8)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ones), str(path))
    before = entry(paths["image"], mask=paths["mask"]).key("kind")
    assert entry(paths["image"], mask=paths["mask"]).key("kind") == before
    (voxels,) = set(tmp_path.glob(f"{which}.*")) - {paths[which]}
    voxels.write_bytes(voxels.read_bytes())
    os.utime(voxels, (1, 1))
    assert entry(paths["image"], mask=paths["mask"]).key("kind") != before


def test_a_header_that_holds_its_voxels_names_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "image.mhd"
    numbers = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    path.write_bytes(f"{numbers}ElementDataFile = LOCAL\n".encode() + bytes(8))
    (tmp_path / "other").write_bytes(b"other")
    before = entry(path).key("kind")
    os.utime(tmp_path / "other", (1, 1))
    assert entry(path).key("kind") == before
