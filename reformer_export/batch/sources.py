"""A file of sequences: lines of text or JSON, or arrays; or standard input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, get_args

from reformer_export.batch.arrays import ArraySource
from reformer_export.batch.lines import STANDARD_INPUT, LineFormat, LineSource
from reformer_export.batch.sequences import SequenceReader, Source
from reformer_export.errors import InputError

LINE_FORMATS: Final[tuple[LineFormat, ...]] = get_args(LineFormat)
ARRAY_SUFFIXES: Final = (".npz", ".npy")


@contextmanager
def open_file(path: Path, reader: SequenceReader, line_format: LineFormat | None = None) -> Iterator[Source]:
    """The sequences in the file `path`, of any size, which is open during the block.

    What it holds is said by `line_format`, else by its name; standard input, which is `-`, is JSON lines,
    which can hold any text. InputError for a file that cannot be read, or arrays that do not fit.
    """
    if line_format not in (None, *LINE_FORMATS):
        raise InputError("line_format", repr(line_format), f"one of {', '.join(LINE_FORMATS)}", "choose one")
    with ExitStack() as resources:
        if line_format is None and path.suffix in ARRAY_SUFFIXES:
            yield ArraySource(path, reader, resources)
            return
        is_jsonl = path == STANDARD_INPUT or path.suffix == ".jsonl"
        yield LineSource(path, line_format or ("jsonl" if is_jsonl else "text"), reader, resources)
