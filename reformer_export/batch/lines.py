"""Lines of text or JSON from a file or standard input, one at a time, each of bounded length."""

from __future__ import annotations

import codecs
import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Literal

from reformer_export.batch.sequences import (
    START_AGAIN,
    Consumed,
    InputLine,
    RowRange,
    SequenceReader,
    Source,
)
from reformer_export.errors import InputError, reason_of

LineFormat = Literal["text", "jsonl"]

STANDARD_INPUT: Final = Path("-")
JSONL_SUFFIXES: Final = (".jsonl", ".ndjson")
BLOCK_BYTES: Final = 2**16
SMALLEST_LINE_BYTES: Final = 2**20
LINE_BYTES_A_TOKEN: Final = 32
"""An id with its comma and its mask take a dozen bytes, a token of text 4 on average and 6 a character when
JSON escapes it: a longer line holds more tokens than the model takes, or is no line."""


class LineSource(Source):
    """The lines of a file, or of standard input; of a regular file also a range of its lines."""

    counts_lines = False

    def __init__(
        self,
        path: Path,
        line_format: LineFormat,
        reader: SequenceReader,
        resources: ExitStack,
        rows: RowRange | None = None,
    ) -> None:
        """Open the file, until `resources` are closed; InputError when the system refuses."""
        super().__init__()
        is_stdin = path == STANDARD_INPUT
        self._name = "standard input" if is_stdin else str(path)
        self.format = line_format
        self._reader = reader
        self._max_bytes = SMALLEST_LINE_BYTES + LINE_BYTES_A_TOKEN * reader.max_length
        self._size: int | None = None
        self._end = math.inf if rows is None else rows.end
        if is_stdin:
            self._stream: BinaryIO = sys.stdin.buffer
            return
        try:
            self._stream = resources.enter_context(path.open("rb"))
            status = os.fstat(self._stream.fileno())
            if rows is not None:
                self._stream.seek(rows.offset)
                self._lines = rows.first
                return
        except OSError as error:
            raise unreadable(path, error) from error
        if stat.S_ISREG(status.st_mode):
            self._size = status.st_size
            self.resumable = True

    @property
    def progress(self) -> tuple[int, int | None]:
        return self._bytes, self._size

    def skip(self, consumed: Consumed) -> None:
        while self._bytes < consumed.size:
            block = self._read(min(BLOCK_BYTES, consumed.size - self._bytes))
            if not block:
                break
        if self.consumed.sha256 != consumed.sha256:
            raise changed(self._name, consumed.lines)
        self._lines = consumed.lines

    def __iter__(self) -> Iterator[InputLine]:
        while self._lines < self._end and (line := self._read_line()):
            index = self._lines
            self._lines += 1
            where = f"{self._name}, line {self._lines}"
            if len(line) > self._max_bytes:
                error = f"got more than {self._max_bytes} bytes, expected a shorter line; split it"
                yield InputLine(index, where, error=error)
                continue
            if index == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as problem:
                error = (
                    f"got no UTF-8 text ({problem.reason} at byte {problem.start}), expected text, .jsonl, "
                    ".npz or .npy; convert it, or name it after its format"
                )
                yield InputLine(index, where, error=error)
                continue
            read = self._reader.read_text if self.format == "text" else self._reader.read_json
            yield read(index, where, text)

    def _read_line(self) -> bytes:
        """The next line with its end; b"" at the end. Of one that is too long, only as much as shows that."""
        line = self._read(self._max_bytes + 1, to_line_end=True)
        rest = line
        while len(line) > self._max_bytes and rest and not rest.endswith(b"\n"):
            rest = self._read(BLOCK_BYTES, to_line_end=True)
        return line

    def _read(self, size: int, *, to_line_end: bool = False) -> bytes:
        try:
            block = self._stream.readline(size) if to_line_end else self._stream.read(size)
        except OSError as error:
            raise unreadable(self._name, error) from error
        self._count(block)
        return block


def unreadable(path: Path | str, error: OSError) -> InputError:
    """The one line for the system's refusal to read `path`."""
    return InputError(
        "file", f"{path}, which cannot be read ({reason_of(error)})", "a file", "check the path"
    )


def changed(name: str, lines: int) -> InputError:
    """The one line for an input that is not the one an earlier run began with."""
    got = f"{name}, whose first {lines} lines are not those that the interrupted run read"
    return InputError("resume", got, "the same", f"restore the file, or {START_AGAIN}")
