"""Rows of .npy and .npz files, one at a time: good ones in every layout, and broken and hostile ones."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.batch.arrays import ArraySource
from reformer_export.batch.sequences import InputLine, SequenceReader
from reformer_export.errors import InputError
from reformer_export.runtimes.tokenizer import ByteTokenizer
from tests.runtimes.artifacts import make_spec


def make_reader() -> SequenceReader:
    return SequenceReader(make_spec(), 64, ByteTokenizer)


def read(path: Path) -> list[InputLine]:
    with ExitStack() as resources:
        return list(ArraySource(path, make_reader(), resources))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value)


def write_npy(path: Path, header: str, version: tuple[int, int] = (1, 0)) -> None:
    text = header.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + text)


@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<i4", ">u2", "u1", "<u8"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_every_integer_type(tmp_path: Path, dtype: str, save: Any) -> None:
    ids = (np.arange(15).reshape(3, 5) * 7).astype(dtype)
    save(tmp_path / "a.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    np.save(tmp_path / "a.npy", ids)
    for name in ("a.npz", "a.npy"):
        lines = read(tmp_path / name)
        assert [line.index for line in lines] == [0, 1, 2]
        for line, row in zip(lines, ids, strict=True):
            assert line.sequence is not None
            assert line.sequence.ids.tolist() == row.tolist()
            assert (line.sequence.mask is None) == (name == "a.npy")


def test_one_axis_is_one_row_and_one_column_has_no_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    assert [line.sequence.ids.tolist() for line in read(tmp_path / "a.npy") if line.sequence] == [
        [0, 1, 2, 3, 4]
    ]
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(5)[:, None]))
    assert len(read(tmp_path / "a.npy")) == 5


def test_bad_rows_are_lines_with_an_error(tmp_path: Path) -> None:
    ids = np.array([[1, 2], [3, 999], [-1, 4]])
    np.savez(tmp_path / "a.npz", input_ids=ids, attention_mask=[[1, 0], [1, 1], [1, 1]])
    first, second, third = read(tmp_path / "a.npz")
    assert first.error is None
    assert second.error == (
        "input_ids: got id 999 at position 1, expected ids from 0 to 257; "
        "use the tokenizer this model was trained with"
    )
    assert third.error is not None
    assert "got id -1" in third.error
    assert third.where == f"{tmp_path / 'a.npz'}, row 2"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2)}", "got 0 bytes for input_ids [1, 2]"),
        ("{'descr': '<i8', 'fortran_order': True, 'shape': (2, 2)}", "ascontiguousarray"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 2)}", "expected [batch, sequence]"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (True, 2)}", "expected [batch, sequence]"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2, 2)}", "expected [batch, sequence]"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': ()}", "expected [batch, sequence]"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 0)}", "at least one integer"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 65)}", "at most 64 tokens"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 1099511627776)}", "at most 64 tokens"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}", "type object"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}", "type float32"),
        ("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (2, 2)}", "at least one integer"),
        ("{'descr': '<i8', 'shape': (2, 2)}", "numpy cannot read"),
        ("((((((((((", "numpy cannot read"),
        ("(" * 9000, "numpy cannot read"),
        ("", "numpy cannot read"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2)}" + " " * 10_000, "a header of"),
    ],
)
def test_headers_are_checked_before_anything_is_read(tmp_path: Path, header: str, message: str) -> None:
    write_npy(tmp_path / "a.npy", header)
    assert message in refusal(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "input_ids.npy")
    assert message in refusal(tmp_path / "a.npz")


def test_a_header_of_four_gigabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1))
    assert "a header of 4294967295 bytes" in refusal(tmp_path / "a.npy")
    write_npy(tmp_path / "a.npy", "{}", version=(3, 0))
    assert "format version 3.0" in refusal(tmp_path / "a.npy")


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    """The directory vouches for the shape, but the data ends before."""
    np.savez_compressed(tmp_path / "a.npz", input_ids=np.zeros((4, 8), np.int64))
    content = (tmp_path / "a.npz").read_bytes()
    at = content.index(b"PK\x01\x02") + 24  # the size in the directory's first entry
    assert content[at : at + 4] == struct.pack("<I", 128 + 4 * 8 * 8)
    (tmp_path / "a.npz").write_bytes(content[:at] + struct.pack("<I", 10_000) + content[at + 4 :])
    assert "bytes for input_ids [4, 8]" in refusal(tmp_path / "a.npz")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**16), st.binary(min_size=1, max_size=4), st.booleans(), st.booleans())
def test_damage_is_an_error_of_its_own_kind(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes, compressed: bool, cut: bool
) -> None:
    """Some bytes changed, or the rest cut off: rows, or an InputError, and nothing else."""
    stream = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(stream, input_ids=np.arange(40).reshape(8, 5), attention_mask=np.ones((8, 5), np.int64))
    content = stream.getvalue()
    at %= len(content)
    content = content[:at] if cut else content[:at] + damage + content[at + len(damage) :]
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    with suppress(InputError):
        assert len(read(path)) <= 8
