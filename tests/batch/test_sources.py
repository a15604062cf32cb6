"""What a file holds: said, or told by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reformer_export.batch import SequenceReader, open_file
from reformer_export.errors import InputError
from reformer_export.runtimes.tokenizer import ByteTokenizer
from tests.runtimes.artifacts import make_spec


def test_the_format_is_said_or_named(tmp_path: Path) -> None:
    reader = SequenceReader(make_spec(), 64, ByteTokenizer)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "abc"}\n')
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.int64))
    (tmp_path / "a.txt").write_text("abc\n")
    found = {}
    for path in (file, tmp_path / "a.npy", tmp_path / "a.txt"):
        with open_file(path, reader) as source:
            found[path.suffix] = source.format
            assert source.resumable
    assert found == {".jsonl": "jsonl", ".npy": "array", ".txt": "text"}
    with open_file(file, reader, "text") as source:
        assert source.format == "text"
    with (
        pytest.raises(InputError, match=r"^line_format: got 'csv', expected one of text, jsonl"),
        open_file(file, reader, "csv"),  # type: ignore[arg-type]
    ):
        pass


def test_lines_are_read_by_their_format(tmp_path: Path) -> None:
    """The same bytes as JSON lines and as text."""
    reader = SequenceReader(make_spec(), 64, ByteTokenizer)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "abc"}\n')
    for line_format, text in ((None, "abc"), ("jsonl", "abc"), ("text", '{"text": "abc"}')):
        with open_file(file, reader, line_format) as source:  # type: ignore[arg-type]
            (line,) = source
        assert line.sequence is not None
        assert line.sequence.ids.tolist() == [byte + 2 for byte in text.encode()]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    reader = SequenceReader(make_spec(), 64, ByteTokenizer)
    for name in ("a.txt", "a.npy", "a.npz"):
        with pytest.raises(InputError, match=r"^file: got .*a\.(txt|np[yz]), which cannot be read"):
            open_file(tmp_path / name, reader).__enter__()
