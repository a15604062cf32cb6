"""Which shared libraries a shared library needs, read from its file: nothing of it is loaded."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"
"""64 bit, little endian: all that CUDA runs on."""

_LOAD: Final = 1
_DYNAMIC: Final = 2
_NEEDED: Final = 1
_STRING_TABLE: Final = 5
_MAX_ENTRIES: Final = 4096
_MAX_NAME: Final = 256


def list_needed(path: Path) -> tuple[str, ...]:
    """The names of the libraries that `path` needs, such as libcublas.so.13 (ELF's DT_NEEDED).

    None are named for a file that is no 64 bit ELF library, or a damaged one. OSError when it cannot be read.
    """
    if path.stat().st_size < 64:
        return ()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _list_needed(data) if data[: len(_MAGIC)] == _MAGIC else ()
        except (struct.error, UnicodeDecodeError, ValueError):
            return ()


def _list_needed(data: mmap.mmap) -> tuple[str, ...]:
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []  # type, offset in the file, address, bytes in the file
    for index in range(min(count, _MAX_ENTRIES)):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, headers + index * size)
        segments.append((kind, offset, address, length))
    entries = [
        struct.unpack_from("<QQ", data, offset + 16 * index)
        for kind, offset, _, length in segments
        if kind == _DYNAMIC
        for index in range(min(length // 16, _MAX_ENTRIES))
    ]
    tables = [value for tag, value in entries if tag == _STRING_TABLE]
    for kind, offset, address, length in segments:
        if kind == _LOAD and tables and address <= tables[0] < address + length:
            table = offset + tables[0] - address
            return tuple(_read_name(data, table + value) for tag, value in entries if tag == _NEEDED)
    return ()


def _read_name(data: mmap.mmap, start: int) -> str:
    end = data.find(b"\0", start, start + _MAX_NAME)
    if end < 0:
        raise ValueError("a name without an end")
    return data[start:end].decode("ascii")
