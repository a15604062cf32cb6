"""Take the code of other GPUs out of a CUDA library, so that it packs small.

    python -m tests.gpu.bundle.keep_architecture LIBRARY.so COPY.so 90

The copy has its old size, and zeros, which compress to nothing, in place of what was taken out: it works on
the given compute capabilities alone. Taken out are machine code for others, PTX beside kept machine code,
and images that hold only kernels of `UNWANTED`. onnxruntime-gpu 1.31's provider (284 MB) packs into 17 MB so.

A fat binary (CUDA's fatbinary.h; magic 0xBA55ED50) is a header and entries; an entry is a header with its
kind (1 PTX, 2 machine code), sizes and compute capability, and an image, plain or compressed.
"""

from __future__ import annotations

import mmap
import re
import shutil
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SECTION: Final = b".nv_fatbin"
MAGIC: Final = 0xBA55ED50
PTX: Final = 1
MACHINE_CODE: Final = 2
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
UNWANTED: Final = re.compile(rb"7cutlass|5flash|3llm")
"""Namespaces, as mangled names spell them, of kernels that no Reformer runs: mixtures of experts, weights of
four bits, attention of language models. Nine tenths of the provider's code."""


@dataclass(frozen=True)
class Entry:
    """One image of a fat binary: where it begins in the file, and its bytes."""

    kind: int
    architecture: int
    begin: int
    size: int


def find_section(data: Any) -> tuple[int, int]:
    """Offset and bytes of the fat binaries in an ELF file of 64 bits; ValueError for a file without them."""
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("library: got a file that is no ELF of 64 bits, expected a shared library")
    table, width, count, names = _section_table(data)
    headers = [struct.unpack_from("<IIQQQQ", data, table + i * width) for i in range(count)]
    names_offset = headers[names][4]
    for name, _, _, _, offset, size in headers:
        start = names_offset + name
        if data[start : start + len(SECTION) + 1] == SECTION + b"\0":
            return offset, size
    raise ValueError("library: got no section .nv_fatbin, expected a library with CUDA code")


def _section_table(data: Any) -> tuple[int, int, int, int]:
    """Its offset, bytes of a header, number of headers, and which of them has the names."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    width, count, names = struct.unpack_from("<HHH", data, 0x3A)
    return table, width, count, names


def read_containers(data: Any) -> Iterator[list[Entry]]:
    """The entries of each fat binary in the library."""
    offset, size = find_section(data)
    at, end = offset, offset + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            at += 8
            continue
        yield list(_read_entries(data, at + header, at + header + length))
        at = (at + header + length + 7) // 8 * 8


def _read_entries(data: Any, start: int, end: int) -> Iterator[Entry]:
    while start < end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, start)
        (architecture,) = struct.unpack_from("<I", data, start + 28)
        if header == 0:
            raise ValueError(f"library: got an entry of no size at byte {start}, expected a fat binary")
        yield Entry(kind, architecture, start + header, size)
        start += header + size


def kernel_names(image: bytes) -> list[bytes]:
    """Mangled names of the kernels in a machine code image; none where it cannot be read."""
    if image[:4] == ZSTD_MAGIC:
        import zstandard  # of tests/requirements.txt: only the bundle's maker needs it

        image = zstandard.ZstdDecompressor().decompressobj().decompress(image)
    return re.findall(rb"\.text\.([\w$.]+)", image)


def is_wanted(entry: Entry, image: bytes) -> bool:
    """Whether it has kernels that are not `UNWANTED`, or cannot be read."""
    names = kernel_names(image) if entry.kind == MACHINE_CODE else []
    return not names or not all(UNWANTED.search(name) for name in names)


def keep_architectures(source: Path, target: Path, architectures: Collection[int]) -> int:
    """Copy the library without the rest; bytes of code that are kept. ValueError where it has no machine
    code for one of `architectures`, such as 90."""
    shutil.copyfile(source, target)
    kept = 0
    met: set[int] = set()
    with target.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for entries in list(read_containers(data)):
            code = {entry.architecture for entry in entries if entry.kind == MACHINE_CODE}
            met |= code
            for entry in entries:
                image = slice(entry.begin, entry.begin + entry.size)
                chosen = entry.kind == MACHINE_CODE and entry.architecture in architectures
                # A binary without code for these GPUs may have PTX that they compile: it stays whole.
                if (chosen or not code & set(architectures)) and is_wanted(entry, data[image]):
                    kept += entry.size
                else:
                    data[image] = bytes(entry.size)
    if absent := sorted(set(architectures) - met):
        target.unlink()
        raise ValueError(
            f"architectures: got {', '.join(map(str, absent))}, expected some of "
            f"{', '.join(map(str, sorted(met)))}, which {source.name} has code for; choose of those"
        )
    return kept


def main() -> None:
    source, target, *architectures = sys.argv[1:]
    kept = keep_architectures(Path(source), Path(target), [int(text) for text in architectures])
    print(f"{kept / 1e6:.1f} MB of code kept")


if __name__ == "__main__":
    main()
