"""A file of sequences: lines of text or JSON, Parquet, or arrays; or standard input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal, get_args

from reformer_export.batch.arrays import ArraySource
from reformer_export.batch.lines import JSONL_SUFFIXES, STANDARD_INPUT, LineFormat, LineSource
from reformer_export.batch.parquet import PARQUET_SUFFIXES, ParquetSource
from reformer_export.batch.sequences import RowRange, SequenceReader, Source
from reformer_export.errors import InputError

LINE_FORMATS: Final[tuple[LineFormat, ...]] = get_args(LineFormat)
ARRAY_SUFFIXES: Final = (".npz", ".npy")
TEXT_SUFFIXES: Final = ("", ".txt", ".text")
"""Of files whose lines are texts; a pipe's name has no suffix."""


@contextmanager
def open_file(
    path: str | os.PathLike[str],
    reader: SequenceReader,
    line_format: LineFormat | None = None,
    rows: RowRange | None = None,
) -> Iterator[Source]:
    """The sequences in the file `path`, of any size, which is open during the block.

    What it holds is said by `line_format`, else by its name, in capitals too; standard input, which is `-`,
    is JSON lines, which can hold any text. InputError for a file that cannot be read, a name that says
    nothing of these, or arrays that do not fit. `rows` are those to read, of lines or Parquet; None for all.
    """
    path = Path(path)
    if line_format not in (None, *LINE_FORMATS):
        raise InputError("line_format", repr(line_format), f"one of {', '.join(LINE_FORMATS)}", "choose one")
    with ExitStack() as resources:
        if line_format is None and path.suffix.lower() in ARRAY_SUFFIXES:
            yield ArraySource(path, reader, resources)
            return
        file_format = line_format or format_from_name(path)
        if file_format == "parquet":
            yield ParquetSource(path, reader, resources, rows)
            return
        yield LineSource(path, file_format, reader, resources, rows)


def format_from_name(path: Path) -> LineFormat | Literal["parquet"]:
    """What the file `path` holds, if no arrays; InputError when its name does not say, as a .json file's."""
    suffix = path.suffix.lower()
    if path == STANDARD_INPUT or suffix in JSONL_SUFFIXES:
        return "jsonl"
    if suffix in PARQUET_SUFFIXES:
        return "parquet"
    if suffix in TEXT_SUFFIXES:
        return "text"
    suffixes = ", ".join(filter(None, (*TEXT_SUFFIXES, *JSONL_SUFFIXES, *PARQUET_SUFFIXES, *ARRAY_SUFFIXES)))
    raise InputError(
        "file",
        f"{path}, whose name does not say what it holds",
        f"a name ending in {suffixes}",
        'rename it, or tell `run`: `line_format="jsonl"` (an object a line) or `line_format="text"`',
    )
