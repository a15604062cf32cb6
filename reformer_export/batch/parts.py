"""Files cut into parts of so many rows, the same for whoever looks at them, and the parts of a shard."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from reformer_export.batch.lines import STANDARD_INPUT, LineFormat, unreadable
from reformer_export.batch.parquet import import_pyarrow, reading_parquet
from reformer_export.batch.sequences import RowRange
from reformer_export.batch.sources import ARRAY_SUFFIXES, format_from_name
from reformer_export.errors import InputError

SCAN_BYTES: Final = 2**20
MAX_NAME_CHARACTERS: Final = 40
"""Of an input's own name within its parts' names."""

FileFormat = LineFormat | Literal["parquet"]


@dataclass(frozen=True)
class InputFile:
    """A file of rows as it was found.

    Attributes:
        path: where it lies here.
        format: "text", "jsonl" or "parquet".
        size: bytes.
        sha256: hex, of its bytes; of a Parquet file, of its footer, which has every column chunk's place,
            size and statistics.
        rows: how many it holds.
        offsets: of a file of lines, the byte at which each part begins.
    """

    path: Path
    format: FileFormat
    size: int
    sha256: str
    rows: int
    offsets: tuple[int, ...]
    _changed_at: int

    def require_unchanged(self) -> None:
        """InputError when it was written since."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise unreadable(self.path, error) from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self._changed_at):
            got = f"{self.path}, which was written during the run"
            raise InputError("file", got, "a file that stays as it is", "run again, into another folder")


@dataclass(frozen=True)
class Part:
    """The rows of one input that make one file of the output, `name`."""

    name: str
    input: int
    rows: RowRange


def find_files(patterns: Sequence[str | Path]) -> list[Path]:
    """The files that paths and globs (`*`, `?`, `[...]`, `**`) name, in the order of their names; InputError
    when one names none, or a file is named twice."""
    found: list[Path] = []
    for pattern in map(str, patterns):
        path = Path(pattern)
        if path == STANDARD_INPUT:
            raise InputError("file", "standard input", "files, where `output` is a folder", "name one")
        is_glob = glob.has_magic(pattern) and not path.exists()
        found_names = glob.glob(pattern, recursive=True) if is_glob else [pattern]  # noqa: PTH207
        matches = [Path(name) for name in found_names]
        files = [each for each in matches if not is_glob or each.is_file()]
        if not files:
            raise InputError("file", f"{pattern}, which no file fits", "at least one", "check the path")
        found += files
    found.sort()
    seen: dict[str, Path] = {}
    for path in found:
        first = seen.setdefault(os.path.realpath(path), path)
        if first is not path:
            names = f"{first} and {path}, which are one file"
            raise InputError("file", names, "each file once", "leave one of them out")
    return found


def scan_file(path: Path, line_format: LineFormat | None, part_rows: int) -> InputFile:
    """What `path` holds; files of lines are read once, from end to end.

    What they hold is said by `line_format`, else by their names; arrays, which one run takes whole, are
    refused, and so is what is no regular file.
    """
    if line_format is None and path.suffix.lower() in ARRAY_SUFFIXES:
        fix = "run it into a .npz or .jsonl file"
        raise InputError("file", f"{path}, arrays", "lines or Parquet, where `output` is a folder", fix)
    file_format = line_format or format_from_name(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("file", f"{path}, no regular file", "one", 'name its files: "FOLDER/*.jsonl"')
        scan = _scan_parquet if file_format == "parquet" else _scan_lines
        sha256, rows, offsets = scan(path, part_rows)
    except OSError as error:
        raise unreadable(path, error) from error
    return InputFile(path, file_format, status.st_size, sha256, rows, offsets, status.st_mtime_ns)


def plan_parts(files: Sequence[InputFile], part_rows: int, suffix: str) -> list[Part]:
    """All parts, in order: their names tell the input by its number and name, and the rows."""
    parts = []
    for number, file in enumerate(files):
        own = re.sub(r"[^A-Za-z0-9_-]+", "_", file.path.stem)[:MAX_NAME_CHARACTERS]
        for first in range(0, file.rows, part_rows):
            end = min(first + part_rows, file.rows)
            offset = file.offsets[first // part_rows] if file.offsets else 0
            name = f"{number:05d}-{own}-{first:012d}-{end:012d}{suffix}"
            parts.append(Part(name, number, RowRange(first, end, offset)))
    return parts


def _scan_lines(path: Path, part_rows: int) -> tuple[str, int, tuple[int, ...]]:
    """SHA-256, lines, and where those begin that begin a part; the last line may lack its end."""
    digest, lines, size, offsets = hashlib.sha256(), 0, 0, [0]
    block = b""
    with path.open("rb") as stream:
        while content := stream.read(SCAN_BYTES):
            block = content
            digest.update(block)
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts = ends[(part_rows - 1 - lines) % part_rows :: part_rows] + 1 + size
            offsets += starts.tolist()
            lines += len(ends)
            size += len(block)
    if block and not block.endswith(b"\n"):
        lines += 1
    return digest.hexdigest(), lines, tuple(offsets)


def _scan_parquet(path: Path, part_rows: int) -> tuple[str, int, tuple[int, ...]]:
    """SHA-256 of the footer, rows, and no offsets."""
    _, parquet = import_pyarrow()
    with reading_parquet(path):
        rows = int(parquet.read_metadata(path).num_rows)
    with path.open("rb") as stream:
        end = stream.seek(-8, os.SEEK_END)
        stream.seek(end - int.from_bytes(stream.read(4), "little"))
        return hashlib.sha256(stream.read()).hexdigest(), rows, ()
