"""What a file holds: said, or told by its name."""

from __future__ import annotations

import codecs
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.NDJSON", "a.Jsonl"])
def test_json_lines_by_any_of_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"input_ids": [5, 6, 7]}\n')
    with open_file(str(tmp_path / name), SequenceReader(make_spec(), 64, ByteTokenizer)) as source:
        (line,) = source
    assert source.format == "jsonl"
    assert line.sequence is not None
    assert line.sequence.ids.tolist() == [5, 6, 7]


@pytest.mark.parametrize("name", ["a.NPY", "a.Npz"])
def test_arrays_by_any_of_their_names(tmp_path: Path, name: str) -> None:
    save = np.save if name.lower().endswith("npy") else np.savez
    with (tmp_path / name).open("wb") as stream:
        save(stream, input_ids=np.ones((2, 3), np.int64)) if save is np.savez else save(stream, [[1, 2]])
    with open_file(tmp_path / name, SequenceReader(make_spec(), 64, ByteTokenizer)) as source:
        assert source.format == "array"


@pytest.mark.parametrize(
    "name", ["a.json", "a.JSON", "a.jsonl.gz", "a.csv", "a.tsv", "a.arrow", "a.npz.bak", "a.yaml", "a.md"]
)
def test_a_name_that_does_not_say_what_the_file_holds_is_refused(tmp_path: Path, name: str) -> None:
    """Such a file is never taken for text; whoever knows says it."""
    (tmp_path / name).write_text('{"text": "abc"}\n')
    reader = SequenceReader(make_spec(), 64, ByteTokenizer)
    with pytest.raises(InputError, match=r"whose name does not say .* `line_format=\"jsonl\"`"):
        open_file(tmp_path / name, reader).__enter__()
    with open_file(tmp_path / name, reader, "jsonl") as source:
        (line,) = source
    assert line.error is None


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.text", "lines"])
def test_texts_by_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("abc")
    with open_file(tmp_path / name, SequenceReader(make_spec(), 64, ByteTokenizer)) as source:
        assert source.format == "text"


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), min_size=1),
    ends=st.data(),
    bom=st.booleans(),
    last=st.sampled_from(["", "\n", "\r\n", "\r"]),
)
def test_lines_of_any_text_are_those_that_were_written(
    lines: list[str], ends: st.DataObject, bom: bool, last: str
) -> None:
    """CRLF and LF mixed, a byte order mark, NUL, form feed and other marks within a line, any end."""
    between = st.sampled_from(["\n", "\r\n"])
    text = "".join(line + ends.draw(between) for line in lines[:-1]) + lines[-1] + last
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(codecs.BOM_UTF8 * bom + text.encode())
        with open_file(path, SequenceReader(make_spec(), 10_000, ByteTokenizer)) as source:
            found = list(source)
    marked = lines[0].startswith("\ufeff") and not bom  # the file's own mark, then
    expected = [lines[0].removeprefix("\ufeff") if marked else lines[0], *lines[1:]]
    for line, wanted in zip(found, expected, strict=True):
        if wanted:
            assert line.sequence is not None
            assert line.sequence.ids.tolist() == ByteTokenizer().encode(wanted)
        else:
            assert line.error is not None


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (b"abc\n\xe2\x98", [None, "no UTF-8 text (unexpected end of data at byte 0)"]),
        (b"abc\n\xff", [None, "no UTF-8 text (invalid start byte at byte 0)"]),
        (b"\xef\xbb", ["no UTF-8 text"]),
        (b"\xef\xbb\xbf", ["an empty text"]),
        (b"abc\n\r\n", [None, "an empty text"]),
        ("ab\n".encode("utf-16"), ["no UTF-8 text", None]),
        (b"abc\x1a", [None]),
        (b"abc\x00", [None]),
    ],
)
def test_a_file_that_ends_in_odd_bytes(tmp_path: Path, content: bytes, errors: list[str | None]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with open_file(tmp_path / "a.txt", SequenceReader(make_spec(), 64, ByteTokenizer)) as source:
        found = [line.error for line in source]
    assert len(found) == len(errors)
    for got, expected in zip(found, errors, strict=True):
        assert (got is None) == (expected is None)
        assert expected is None or expected in str(got)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"input_ids": [5, true, 7]}', "got true or false among input_ids, expected integers"),
        ('{"input_ids": [true, false]}', "got true or false among input_ids"),
        ('{"input_ids": [5, 6.0, 7]}', "type float64"),
        ('{"input_ids": [5, "6", 7]}', "expected a list of at least one integer"),
        ('{"input_ids": [5, null, 7]}', "expected a list of at least one integer"),
        ('{"input_ids": [5, 99999999999999999999999]}', "expected a list of at least one integer"),
        ('{"input_ids": [5, 6], "attention_mask": [1, true]}', "got true or false among attention_mask"),
        ('{"text": "abc", "input_ids": [5, 6]}', "got text and input_ids, expected text alone"),
        ('{"text": "abc", "attention_mask": [1]}', "got text and attention_mask, expected text alone"),
        ('{"text": 5, "input_ids": [5, 6]}', "got text and input_ids, expected text alone"),
        ('{"text": 5}', "expected an object with input_ids or text"),
        ('["abc"]', "expected an object with input_ids or text"),
        ('"abc"', "expected an object with input_ids or text"),
    ],
)
def test_bad_json_lines(line: str, error: str) -> None:
    read = SequenceReader(make_spec(), 64, ByteTokenizer).read_json(0, "here", line)
    assert read.sequence is None
    assert error in str(read.error)
    json.loads(line)  # all of them are JSON
