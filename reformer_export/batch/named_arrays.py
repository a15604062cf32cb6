"""A custom module over the arrays of a .npz file, by the names of its inputs and outputs."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from reformer_export.artifact.files import replace_file
from reformer_export.artifact.manifest import Manifest
from reformer_export.batch.array_files import BROKEN, BoundedReads, broken_file, open_member, read_header
from reformer_export.batch.lines import BLOCK_BYTES, unreadable
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.named_inputs import check_names

NPZ: Final = ".npz"

Arrays = dict[str, NDArray[Any]]


def read_named_arrays(path: Path, manifest: Manifest) -> Arrays:
    """The arrays of the .npz file `path`, which are the inputs of a custom module; InputError for other
    names, shapes or kinds of values, before any value is read."""
    if path.suffix.lower() != NPZ:
        expected = f"a {NPZ} file with {', '.join(each.name for each in manifest.inputs)}"
        raise InputError("file", path.name, expected, "write it with numpy.savez")
    try:
        with ExitStack() as resources:
            archive = zipfile.ZipFile(resources.enter_context(BoundedReads(io.FileIO(path))))
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            check_names(manifest, members)
            opened = {}
            for each in manifest.inputs:
                stream = resources.enter_context(open_member(path, archive, members[each.name]))
                opened[each.name] = _Array(path, each.name, stream, members[each.name].file_size)
            manifest.signature.bind({name: array.shape for name, array in opened.items()})
            return {name: array.read() for name, array in opened.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except BROKEN as error:
        raise broken_file(path, error) from error


class _Array:
    """A member whose header was read: numbers, of as many bytes as it has."""

    def __init__(self, path: Path, name: str, stream: IO[bytes], size: int) -> None:
        self.shape, self._is_fortran, self._dtype = read_header(stream)
        self._stream = stream
        self._size = math.prod(self.shape) * self._dtype.itemsize
        fix = "write it with numpy.savez"
        if self._dtype.kind not in "fiub":
            raise InputError("file", f"{name} of type {self._dtype} in {path}", "numbers", fix)
        if size - stream.tell() != self._size:
            got = f"{size - stream.tell()} bytes for {name} {list(self.shape)} in {path}"
            raise InputError("file", got, f"{self._size}", fix)

    def read(self) -> NDArray[Any]:
        content = bytearray()
        while part := self._stream.read(min(self._size - len(content), BLOCK_BYTES)):
            content += part
        order: Any = "F" if self._is_fortran else "C"
        return np.frombuffer(content, self._dtype).reshape(self.shape, order=order)


def run_named(runtime: Runtime, arrays: Arrays, rows: int | None = None) -> Arrays:
    """The outputs of a custom module for whole `arrays` by name, which run together, or `rows` of them at a
    time; InputError where they have no rows."""
    batch = runtime.manifest.signature.batch
    if rows is None:
        return runtime.run(arrays)
    if batch is None:
        expected = "none: not every input and output has its rows first, in one symbolic dimension"
        raise InputError("rows", rows, expected, "leave it out")
    size = runtime.manifest.signature.bind({name: value.shape for name, value in arrays.items()})[batch]
    parts = [runtime.run(part) for part in _cut(arrays, size, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(arrays: Arrays, size: int, rows: int) -> Iterator[Arrays]:
    for begin in range(0, size, rows):
        yield {name: value[begin : begin + rows] for name, value in arrays.items()}


def write_named_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the .npz file `path`, whole or not at all: any names."""
    with replace_file(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy_format.write_array(member, np.asarray(values), allow_pickle=False)
