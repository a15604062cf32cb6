from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.tensorrt import (
    LIBRARY_VARIABLE,
    TensorRTLibrary,
    describe_tensorrt_library,
    find_tensorrt_library,
)
from tests.runtimes.tensorrt.engines import write_library

MARKER = b"reformer-tensorrt-plugin abi=%d version=0.1.0 cuda=80,90" % ABI_VERSION


def test_a_library_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_library(tmp_path, "80,89,120")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    library = find_tensorrt_library()
    assert library == TensorRTLibrary(path.resolve(), "0.1.0", ABI_VERSION, (80, 89, 120))
    assert str(library) == f"0.1.0 (ABI {ABI_VERSION}, sm_80, sm_89, sm_120)"


def test_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "nowhere.so"))
    with pytest.raises(RuntimeUnavailableError, match=r"got no .*nowhere\.so.*build-library --tensorrt`"):
        find_tensorrt_library()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fEL", b"\x7fELF and nothing else", b"not ELF " + MARKER, b"\x7fELF " + MARKER[:-6]],
    ids=["empty", "short", "no marker", "no library", "half a marker"],
)
def test_a_file_that_is_no_plugin_library(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "libreformer_tensorrt.so"
    path.write_bytes(content)
    with pytest.raises(RuntimeUnavailableError, match="got a file that is not it, expected a shared library"):
        describe_tensorrt_library(path)


@pytest.mark.parametrize("abi", [ABI_VERSION - 1, ABI_VERSION + 1, 999])
def test_a_library_of_another_abi(tmp_path: Path, abi: int) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"got ABI version {abi}, expected {ABI_VERSION}"):
        describe_tensorrt_library(write_library(tmp_path, abi=abi))
