"""Where results go line by line: a .jsonl or .npz file, or standard output. None holds them all."""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from reformer_export.artifact.files import replace_file
from reformer_export.batch.batching import Totals
from reformer_export.batch.lines import JSONL_SUFFIXES
from reformer_export.batch.parquet import fields_from_extra
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.selection import KEEP_ALL, OutputSelection
from reformer_export.batch.sequences import Consumed, InputLine
from reformer_export.errors import InputError, OutputError

STANDARD_OUTPUT: Final = Path("-")
OUTPUT_SUFFIXES: Final = (".npz", *JSONL_SUFFIXES)
RESUMABLE: Final = "a .jsonl file, which alone can be gone on with"
COPY_BYTES: Final = 2**20


def is_jsonl(path: Path) -> bool:
    """Whether the name is that of a file of JSON lines."""
    return path.suffix.lower() in JSONL_SUFFIXES


@dataclass(frozen=True)
class Output:
    """Where results go, checked before any work: OutputError or InputError when they cannot.

    Attributes:
        path: a .jsonl or .npz file, or `-` for JSON lines on standard output.
        resume: go on with what an interrupted run over a file into this .jsonl has left, if there is one.
        restart: begin anew, whatever an interrupted run has left.
        selection: what is kept of a language model's logits.
    """

    path: Path
    resume: bool = False
    restart: bool = False
    selection: OutputSelection = KEEP_ALL

    def __post_init__(self) -> None:
        if self.path != STANDARD_OUTPUT:
            self._check_path()
        if self.resume and self.restart:
            raise InputError("resume", "`restart` too", "one of them", "choose")
        if (self.resume or self.restart) and not self.is_jsonl:
            what = "resume" if self.resume else "restart"
            raise InputError(what, f"`output` {self.path}", RESUMABLE, "write one, or leave it out")
        if self.is_jsonl and self.partial.exists() and not (self.resume or self.restart):
            got = f"{self.partial}, which an interrupted run has left"
            fix = "go on with `resume=True`, or start again with `restart=True`"
            raise OutputError("output", got, "none", fix)

    @property
    def is_jsonl(self) -> bool:
        """Whether it is a file of JSON lines."""
        return is_jsonl(self.path)

    @property
    def is_npz(self) -> bool:
        """Whether it is a file of arrays."""
        return self.path.suffix.lower() == ".npz"

    @property
    def is_finished(self) -> bool:
        """Whether to go on means to do nothing: the file is there, and no interrupted run."""
        return self.resume and self.path.is_file() and not self.partial.exists()

    @property
    def partial(self) -> Path:
        """Where a run that can be gone on with keeps its lines until they are all there."""
        return self.path.parent / f"{self.path.name}.partial"

    def _check_path(self) -> None:
        if self.path.suffix.lower() not in OUTPUT_SUFFIXES:
            expected = "a name ending in .npz or .jsonl, a folder, or - for standard output"
            raise InputError("output", self.path.name, expected, "rename it")
        if not self.path.parent.is_dir():
            got = f"{self.path}, whose folder does not exist"
            raise OutputError("output", got, "one", "make it first")
        if self.path.is_dir():
            raise OutputError("output", f"{self.path}, a folder", "a file to write", "choose another")


class ResultWriter(ABC):
    """Takes the results in the lines' order.

    Attributes:
        begun: what was done, and written, before this run.
    """

    begun = Totals()

    @abstractmethod
    def write(self, result: SequenceResult) -> None:
        """Take the next result."""

    def write_error(self, line: InputLine) -> None:  # noqa: B027
        """Take the next line, which is bad; it is left out."""

    def end_window(self, consumed: Consumed, totals: Totals) -> None:  # noqa: B027
        """All that was read so far was given to this writer."""


class SelectingWriter(ResultWriter):
    """Gives `writer` what is kept of each result."""

    def __init__(self, writer: ResultWriter, select: Callable[[SequenceResult], SequenceResult]) -> None:
        self._writer = writer
        self._select = select
        self.begun = writer.begun

    def write(self, result: SequenceResult) -> None:
        self._writer.write(self._select(result))

    def write_error(self, line: InputLine) -> None:
        self._writer.write_error(line)

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        self._writer.end_window(consumed, totals)


@contextmanager
def open_whole_file(path: Path) -> Iterator[ResultWriter]:
    """A writer for a .npz or .jsonl file, which appears when the block ends well and else stays as it was;
    or for JSON lines on standard output."""
    if path == STANDARD_OUTPUT:
        yield JsonLinesWriter(sys.stdout.buffer)
        return
    with replace_file(path) as stream, ExitStack() as resources:
        if is_jsonl(path):
            yield JsonLinesWriter(stream)
            return
        writer = NpzWriter(path.parent, resources)
        yield writer
        writer.finish(stream)


class JsonLinesWriter(ResultWriter):
    """A line a sequence: `index`, `input_ids` of a model that takes ids, `attention_mask` if one was given,
    and every output; a line for a bad one: `index` and `error`. With `keeps_extra`, what else stood in the
    input's line is under `fields`, if anything did."""

    def __init__(self, stream: BinaryIO, *, keeps_extra: bool = False) -> None:
        self._stream = stream
        self._keeps_extra = keeps_extra
        self.size = 0

    def write(self, result: SequenceResult) -> None:
        values: dict[str, Any] = {"index": result.index, **self._list_extra(result.extra)}
        if not result.sequence.has_vectors:
            values["input_ids"] = result.sequence.ids.tolist()
        if result.sequence.mask is not None:
            values["attention_mask"] = result.sequence.mask.tolist()
        values.update({name: _json_from_array(value) for name, value in result.outputs.items()})
        self._write_line(values)

    def write_error(self, line: InputLine) -> None:
        self._write_line({"index": line.index, **self._list_extra(line.extra), "error": line.error})

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        """Let go of the lines: somebody may wait for them at the other end of a pipe."""
        self._stream.flush()

    def _list_extra(self, extra: Any) -> dict[str, Any]:
        return {"fields": fields_from_extra(extra)} if self._keeps_extra and extra is not None else {}

    def _write_line(self, values: dict[str, Any]) -> None:
        self.size += self._stream.write(json.dumps(values).encode("ascii") + b"\n")


def _json_from_array(values: NDArray[Any]) -> Any:
    """Nested lists; NaN and infinity, which JSON does not know, become null."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values.tolist()
    nullable = values.astype(object)
    nullable[~np.isfinite(values)] = None
    return nullable.tolist()


@dataclass
class _Column:
    """One array of the .npz: its rows so far, each behind its length, in a file without a name."""

    spool: IO[bytes]
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    longest: int = 0

    def append(self, row: NDArray[Any]) -> None:
        self.longest = max(self.longest, len(row))
        self.spool.write(len(row).to_bytes(8, "little") + np.ascontiguousarray(row).tobytes())


class NpzWriter(ResultWriter):
    """`index` [sequences], `input_ids` of a model that takes ids and `attention_mask` [sequences, length],
    and every output [sequences, ...], rows padded with zeros; bad lines are left out.
    numpy lets go of the zero characters at a text's end.

    How wide the arrays are is known at the end only: until then the rows wait in files without a name in
    `folder`, which needs room for them besides the .npz.
    """

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self._folder = folder
        self._resources = resources
        self._columns: dict[str, _Column] = {}
        self._rows = 0
        for name in ("index", "input_ids", "attention_mask"):
            self._columns[name] = self._new_column(np.dtype(np.int64), ())

    def write(self, result: SequenceResult) -> None:
        arrays: dict[str, NDArray[Any]] = {
            "index": np.array([result.index], np.int64),
            "attention_mask": result.sequence.mask_or_ones.astype(np.int64, copy=False),
            **result.outputs,
        }
        if result.sequence.has_vectors:
            self._columns.pop("input_ids", None)
        else:
            arrays["input_ids"] = result.sequence.ids.astype(np.int64, copy=False)
        for name, row in arrays.items():
            if name not in self._columns:
                self._columns[name] = self._new_column(row.dtype, row.shape[1:])
            self._columns[name].append(row)
        self._rows += 1

    def finish(self, stream: BinaryIO) -> None:
        """Write the .npz, a row at a time."""
        with zipfile.ZipFile(stream, "w") as archive:
            for name, column in self._columns.items():
                shape: tuple[int, ...] = (self._rows, column.longest, *column.row_shape)
                if name == "index":
                    shape = (self._rows,)
                header = {"descr": column.dtype.str, "fortran_order": False, "shape": shape}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy_format.write_array_header_1_0(member, header)
                    _copy_rows(column, member)

    def _new_column(self, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> _Column:
        spool = self._resources.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
        return _Column(spool, dtype, row_shape)


def _copy_rows(column: _Column, target: IO[bytes]) -> None:
    item_bytes = column.dtype.itemsize * int(np.prod(column.row_shape, dtype=np.int64))
    column.spool.seek(0)
    while prefix := column.spool.read(8):
        length = int.from_bytes(prefix, "little")
        _copy(column.spool, target, length * item_bytes)
        _write_zeros(target, (column.longest - length) * item_bytes)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        size -= target.write(source.read(min(size, COPY_BYTES)))


def _write_zeros(target: IO[bytes], size: int) -> None:
    while size:
        size -= target.write(bytes(min(size, COPY_BYTES)))
