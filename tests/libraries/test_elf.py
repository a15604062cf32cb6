from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.libraries.elf import list_needed

LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))


def test_a_real_library_needs_what_readelf_says() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs binutils")
    output = subprocess.run(["readelf", "-dW", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = tuple(re.findall(r"\(NEEDED\).*\[(.+)\]", output))
    assert list_needed(LIBRARY) == needed != ()


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(64), b"MZ" + bytes(100)])
def test_what_is_no_library_needs_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.so"
    path.write_bytes(content)
    assert list_needed(path) == ()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_needed(tmp_path / "none.so")


@settings(max_examples=200, deadline=None)
@given(
    cut=st.integers(0, 4096),
    changes=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8),
)
def test_a_damaged_library_is_read_or_needs_nothing(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]]
) -> None:
    with LIBRARY.open("rb") as stream:
        data = bytearray(stream.read(4096))
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.mktemp("elf") / "damaged.so"
    path.write_bytes(data[:cut])
    assert all(isinstance(name, str) for name in list_needed(path))
