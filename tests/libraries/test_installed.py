from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries import installed
from reformer_export.libraries.installed import ABI_VERSION, check_abi, library_name, library_path


def test_the_variable_s_library_or_the_package_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "INSTALLED", tmp_path)
    monkeypatch.delenv("THE_VARIABLE", raising=False)
    assert library_path("some", "THE_VARIABLE") == tmp_path / library_name("some")
    monkeypatch.setenv("THE_VARIABLE", "")
    assert library_path("some", "THE_VARIABLE") == tmp_path / library_name("some")
    monkeypatch.setenv("THE_VARIABLE", str(tmp_path / "a" / ".." / "other.so"))
    assert library_path("some", "THE_VARIABLE") == tmp_path / "other.so"


def test_the_interface_s_version() -> None:
    check_abi("library x", ABI_VERSION)
    with pytest.raises(RuntimeUnavailableError) as caught:
        check_abi("library x", 99, ", or none")
    assert str(caught.value) == (
        f"library x: got ABI version 99, expected {ABI_VERSION}; "
        "take the library and the package from one release, or none"
    )
    with pytest.raises(RuntimeUnavailableError, match="got ABI version unknown"):
        check_abi("library x", 0)
