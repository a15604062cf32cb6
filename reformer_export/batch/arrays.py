"""Rows of ids, or of vectors, from a .npy or .npz file, read one at a time."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.array_files import BROKEN, BoundedReads, broken_file, open_member, read_header
from reformer_export.batch.lines import BLOCK_BYTES, changed, unreadable
from reformer_export.batch.sequences import Consumed, InputLine, SequenceReader, Source
from reformer_export.errors import InputError


@dataclass(frozen=True)
class _Rows:
    """The rows of an array [rows, length, ...] that are still to be read from `stream`."""

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> tuple[bytes, NDArray[Any]]:
        """The next row, as bytes and as numbers [length, ...]."""
        wanted = math.prod(self.shape[1:]) * self.dtype.itemsize
        parts = []
        while wanted:
            part = self.stream.read(min(wanted, BLOCK_BYTES))
            if not part:
                raise EOFError(f"{self.name} ends before its {self.shape[0]} rows")
            parts.append(part)
            wanted -= len(part)
        content = b"".join(parts)
        return content, np.frombuffer(content, self.dtype).reshape(self.shape[1:])


class ArraySource(Source):
    """The rows of `input_ids` [sequences, length], or `inputs_embeds` [sequences, length, hidden_size] where
    the model takes vectors, and of `attention_mask` if there is one. An axis less is one row."""

    format = "array"
    resumable = True

    def __init__(self, path: Path, reader: SequenceReader, resources: ExitStack) -> None:
        """Open the file and check its headers; InputError says what is not as it should be.

        Args:
            path: a .npy or .npz file.
            reader: for the model's greatest length and to check rows.
            resources: closes the file.
        """
        super().__init__()
        self._path = path
        self._reader = reader
        try:
            file = resources.enter_context(BoundedReads(io.FileIO(path)))
            is_archive = path.suffix.lower() == ".npz"
            arrays = self._open_npz(file, resources) if is_archive else self._open_npy(file)
        except OSError as error:
            raise unreadable(path, error) from error
        except BROKEN as error:
            raise broken_file(self._path, error) from error
        name, mask_name = reader.input_names
        self._ids = arrays[name]
        self._mask = arrays.get(mask_name)
        if self._mask is not None and self._mask.shape != self._ids.shape[:2]:
            got = f"{name} {list(self._ids.shape)} and {mask_name} {list(self._mask.shape)}"
            expected = f"{_describe_axes(reader.vector_size)} and [batch, sequence]"
            expected = "[batch, sequence] for both" if reader.vector_size is None else expected
            raise InputError("file", got, expected, f"reshape them in {path}")

    @property
    def progress(self) -> tuple[int, int | None]:
        return self._lines, self._ids.shape[0]

    def skip(self, consumed: Consumed) -> None:
        while self._lines < min(consumed.lines, self._ids.shape[0]):
            self._read_row()
        if self.consumed != consumed:
            raise changed(str(self._path), consumed.lines)

    def __iter__(self) -> Iterator[InputLine]:
        while self._lines < self._ids.shape[0]:
            index = self._lines
            yield self._reader.check(index, f"{self._path}, row {index}", *self._read_row())

    def _read_row(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        values: list[NDArray[Any]] = []
        try:
            for rows in (self._ids, self._mask):
                if rows is not None:
                    content, row = rows.read()
                    self._count(content)
                    values.append(row)
        except OSError as error:
            raise unreadable(self._path, error) from error
        except BROKEN as error:
            raise broken_file(self._path, error) from error
        self._lines += 1
        return values[0], values[1] if self._mask is not None else None

    def _open_npy(self, file: BinaryIO) -> dict[str, _Rows]:
        name, _ = self._reader.input_names
        rows = self._open_array(name, file)
        self._check_size(rows, os.fstat(file.fileno()).st_size - file.tell())
        return {name: rows}

    def _open_npz(self, file: BinaryIO, resources: ExitStack) -> dict[str, _Rows]:
        archive = resources.enter_context(zipfile.ZipFile(file))
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        known = self._reader.input_names
        if known[0] not in names:
            raise self._refuse(f"arrays {sorted(names)[:8]}", known[0], "rename it")
        others = sorted(names.keys() - set(known))
        if others and self._reader.vector_size is not None:  # such as keys, which would change the answer
            fix = "leave the others out: they are no inputs of this artifact"
            raise self._refuse(f"arrays {others[:8]}", f"{' and '.join(known)} alone", fix)
        arrays = {}
        for name in names.keys() & set(known):
            info = names[name]
            stream = resources.enter_context(open_member(self._path, archive, info))
            arrays[name] = self._open_array(name, stream)
            self._check_size(arrays[name], info.file_size - stream.tell())
        return arrays

    def _open_array(self, name: str, stream: IO[bytes]) -> _Rows:
        shape, fortran_order, dtype = read_header(stream)
        size = self._reader.vector_size if name == self._reader.input_names[0] else None
        axes = 2 if size is None else 3
        if len(shape) == axes - 1:
            shape = (1, *shape)
        got = f"{name} {list(shape)}"
        fits = len(shape) == axes and all(type(each) is int and each >= 0 for each in shape)
        if not fits or shape[2:] != (() if size is None else (size,)):
            raise self._refuse(got, _describe_axes(size), "reshape it")
        if dtype.kind not in ("iu" if size is None else "f") or shape[1] == 0:
            got = f"{name} of shape {list(shape)} and type {dtype}"
            expected = "rows of at least one integer" if size is None else "rows of real numbers"
            raise self._refuse(got, expected, "mend it")
        longest = self._reader.max_length
        if shape[1] > longest:
            raise self._refuse(got, f"rows of at most {longest} tokens", "shorten the texts, or split them")
        if fortran_order and sum(each > 1 for each in shape) > 1:
            fix = "write it with numpy.ascontiguousarray"
            raise self._refuse(f"{name} in Fortran order", "one row after the other", fix)
        return _Rows(name, stream, shape, dtype)

    def _check_size(self, rows: _Rows, got: int) -> None:
        expected = math.prod(rows.shape) * rows.dtype.itemsize
        if got != expected:
            size = f"{got} bytes for {rows.name} {list(rows.shape)}"
            raise self._refuse(size, str(expected), "write it again")

    def _refuse(self, got: str, expected: str, fix: str) -> InputError:
        return InputError("file", f"{got} in {self._path}", expected, fix)


def _describe_axes(size: int | None) -> str:
    return "[batch, sequence]" if size is None else f"[batch, sequence, {size}]"
