"""Where the sequences of `run` come from: the command line, a file of lines or arrays, standard input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, cast

import numpy as np

from reformer_export.batch.arrays import ArraySource
from reformer_export.batch.lines import STANDARD_INPUT, LineFormat, LineSource
from reformer_export.batch.sequences import GivenSequences, SequenceReader, Source, ids_from_text
from reformer_export.errors import InputError

LINE_FORMATS: Final = ("text", "jsonl")
ARRAY_SUFFIXES: Final = (".npz", ".npy")


def open_source(
    texts: Sequence[str],
    ids: Sequence[str],
    file: Path | None,
    line_format: str | None,
    reader: SequenceReader,
    resources: ExitStack,
) -> Source:
    """The sequences from exactly one of `texts`, `ids` and `file`, whatever is open closed by `resources`."""
    given = [name for name, value in (("TEXT", texts), ("--ids", ids), ("--file", file)) if value]
    if len(given) != 1:
        raise InputError(
            f"input: got {' and '.join(given) or 'none'}, expected one of TEXT, --ids, --file; give one"
        )
    if file is not None:
        what = find_format(file, line_format)
        if what == "array":
            return ArraySource(file, reader, resources)
        return LineSource(file, cast(LineFormat, what), reader, resources)
    if line_format is not None:
        raise InputError(f"--format: got {line_format} for {given[0]}, expected it with --file; leave it out")
    if ids:
        rows = [np.array(ids_from_text("--ids", text)) for text in ids]
        return GivenSequences([reader.check(i, f"--ids {i}", row, None) for i, row in enumerate(rows)])
    return GivenSequences([reader.read_text(i, f"TEXT {i}", text) for i, text in enumerate(texts)])


def find_format(file: Path, line_format: str | None) -> str:
    """text, jsonl or array: as said, else as named; standard input is jsonl, which can hold any text."""
    if line_format is not None:
        return line_format
    if file == STANDARD_INPUT or file.suffix == ".jsonl":
        return "jsonl"
    return "array" if file.suffix in ARRAY_SUFFIXES else "text"
