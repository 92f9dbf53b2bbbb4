"""Versions are those of what is installed."""

from crossd.utils.libraries import LIBRARIES, version, versions


def test_versions_name_what_is_installed() -> None:
    found = versions()
    assert found["torch"].startswith("2.") and version("no-such-library") is None
    assert {"python", "numpy", "rich"} <= set(found) <= {"python", "crossd", *LIBRARIES}
