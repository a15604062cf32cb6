"""Files of numpy's arrays from anybody: a header's promise is checked before memory is taken for it, and a
compressed member is unpacked only as far as it is read."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy_format

from reformer_export.errors import InputError

MAX_HEADER_BYTES: Final = 10_000
"""As numpy's own reader; an array of two axes needs about a hundred."""

MAX_READ_BYTES: Final = 2**20
"""What is read of a .npz at once, its directory included: thousands of members, where two are expected."""

READABLE_COMPRESSION: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those of numpy.savez and savez_compressed; the others' readers unpack without a bound."""

BROKEN: Final = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError, NotImplementedError, RuntimeError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
"""What the readers of numpy and zipfile raise on files that were damaged, or made to do damage."""


def open_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """An array of the .npz `path`; InputError for one that numpy does not write so."""
    if info.compress_type not in READABLE_COMPRESSION or info.flag_bits & 1:
        name = info.filename.removesuffix(".npy")
        got = f"{name} encrypted, or compressed with method {info.compress_type}, in {path}"
        expected = "a member that is stored or deflated"
        raise InputError("file", got, expected, "write it with numpy.savez")
    return archive.open(info)


def broken_file(path: Path, error: BaseException) -> InputError:
    """The error for a file on which a reader failed with one of `BROKEN`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    got = f"{path}, which numpy cannot read ({reason:.200})"
    return InputError("file", got, "a .npz or .npy file", "write it with numpy.savez")


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; numpy's own parser gets the header once its length is known to be
    small."""
    version = npy_format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version[0]}.{version[1]}, where integers have 1.0")
    layout = "<H" if version == (1, 0) else "<I"
    prefix = stream.read(struct.calcsize(layout))
    (length,) = struct.unpack(layout, prefix)
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, where at most {MAX_HEADER_BYTES} make sense")
    content = io.BytesIO(prefix + stream.read(length))
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran_order, dtype = read(content)
    return shape, fortran_order, dtype


class BoundedReads(io.BufferedReader):
    """A file that gives at most `MAX_READ_BYTES` at once: zipfile reads a directory of any size whole."""

    def read(self, size: int | None = -1) -> bytes:
        most = MAX_READ_BYTES + 1
        content = super().read(most if size is None or size < 0 else min(size, most))
        if len(content) > MAX_READ_BYTES:
            raise zipfile.BadZipFile(f"a directory of more than {MAX_READ_BYTES} bytes")
        return content
