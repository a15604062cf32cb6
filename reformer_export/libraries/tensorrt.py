"""The TensorRT plugin library: where it is, and whether it fits this version.

It is looked at as a file only. Loading it here could end this process (it needs CUDA's loader and is made
for another program's memory); the runtime loads it when it is known to fit.
"""

from __future__ import annotations

import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.operators import ABI_VERSION

LIBRARY_VARIABLE: Final = "REFORMER_EXPORT_TENSORRT_PLUGIN"
"""Environment variable: another library than the installed one, for trying a build."""

LIBRARY_NAME: Final = "libreformer_tensorrt.so"
HOW_TO_GET_IT: Final = (
    "build it in a clone with CUDA's compiler (plugins/README.md), or name a built one with "
    f"${LIBRARY_VARIABLE}"
)

_ELF_MAGIC: Final = b"\x7fELF"
_MARKER: Final = re.compile(
    rb"reformer-tensorrt-plugin abi=([0-9]{1,9}) version=([0-9A-Za-z.+-]{1,64}) cuda=([0-9,]{2,200})"
)


@dataclass(frozen=True)
class TensorRTLibrary:
    """A plugin library that fits. `cuda_architectures` are those it has kernels for, such as (80, 89)."""

    path: Path
    version: str
    abi_version: int
    cuda_architectures: tuple[int, ...]

    def has_kernels_for(self, compute_capability: str) -> bool:
        """Whether a GPU of `compute_capability`, such as "8.9", runs the library's machine code: that of
        its own major version and of a minor version that is not newer (CUDA's binary compatibility)."""
        wanted = int(compute_capability.replace(".", ""))
        return any(wanted // 10 * 10 <= number <= wanted for number in self.cuda_architectures)

    def __str__(self) -> str:
        architectures = ", ".join(f"sm_{number}" for number in self.cuda_architectures)
        return f"{self.version} (ABI {self.abi_version}, {architectures})"


def find_tensorrt_library() -> TensorRTLibrary:
    """The library that $REFORMER_EXPORT_TENSORRT_PLUGIN names, else the one installed with the package.

    Raises:
        RuntimeUnavailableError: there is none, it is no such library, or of another ABI version.
    """
    chosen = os.environ.get(LIBRARY_VARIABLE)
    path = Path(chosen) if chosen else Path(__file__).parents[1] / "_native" / LIBRARY_NAME
    return describe_tensorrt_library(path.resolve())


def describe_tensorrt_library(path: Path) -> TensorRTLibrary:
    """What the file `path` says of itself; the same errors as `find_tensorrt_library`."""
    try:
        if not path.is_file():
            raise RuntimeUnavailableError(
                f"TensorRT plugin library: got no {path}, expected the reformer operators' plugins; "
                f"{HOW_TO_GET_IT}"
            )
        marker = _find_marker(path)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"TensorRT plugin library {path}: got '{error.strerror or error}', expected a readable file; "
            "check its permissions"
        ) from error
    if marker is None:
        raise RuntimeUnavailableError(
            f"TensorRT plugin library {path}: got a file that is not it, expected a shared library with the "
            f"reformer operators' plugins; {HOW_TO_GET_IT}"
        )
    abi_version, version, architectures = marker
    if int(abi_version) != ABI_VERSION:
        raise RuntimeUnavailableError(
            f"TensorRT plugin library {path}: got ABI version {int(abi_version)}, expected {ABI_VERSION}; "
            "take the library and the package from one release"
        )
    numbers = tuple(int(number) for number in architectures.split(b",") if number)
    return TensorRTLibrary(path, version.decode("ascii"), int(abi_version), numbers)


def _find_marker(path: Path) -> tuple[bytes, bytes, bytes] | None:
    """ABI version, version and CUDA architectures, or None where `path` is no library with the marker."""
    if path.stat().st_size < len(_ELF_MAGIC):
        return None
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(_ELF_MAGIC)] != _ELF_MAGIC:
            return None
        found = _MARKER.search(data)
        return None if found is None else (found.group(1), found.group(2), found.group(3))
