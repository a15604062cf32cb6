"""The TensorRT plugin library: where it is, and whether it fits this version.

It is looked at as a file only. Loading it here could end this process (it needs CUDA's loader and is made
for another program's memory); the runtime loads it when it is known to fit.
"""

from __future__ import annotations

import mmap
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError, reason_of
from reformer_export.libraries.architectures import Code, ComputeCapability, code_for, parse_architectures
from reformer_export.libraries.compiler import how_to_build
from reformer_export.libraries.installed import check_abi, library_path

LIBRARY_VARIABLE: Final = "REFORMER_EXPORT_TENSORRT_PLUGIN"
"""Environment variable: another library than the installed one, for trying a build."""

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

    def code_for(self, capability: ComputeCapability) -> Code | None:
        """Which of its code a GPU of `capability` runs; None: none of it."""
        return code_for(self.cuda_architectures, capability)

    @property
    def kernels(self) -> str:
        """The architectures in words: sm_80, sm_89."""
        return ", ".join(f"sm_{number}" for number in self.cuda_architectures)

    def __str__(self) -> str:
        return f"{self.version} (ABI {self.abi_version}, {self.kernels})"


def find_tensorrt_library() -> TensorRTLibrary:
    """The library that $REFORMER_EXPORT_TENSORRT_PLUGIN names, else the one installed with the package.

    Raises:
        RuntimeUnavailableError: there is none, it is no such library, or of another ABI version; or this is
            no Linux.
    """
    if sys.platform != "linux":
        expected, fix = "Linux, which the plugins are made for", "use a Linux machine, or WSL on Windows"
        raise RuntimeUnavailableError("TensorRT plugin library", sys.platform, expected, fix)
    return describe_tensorrt_library(library_path("reformer_tensorrt", LIBRARY_VARIABLE))


def describe_tensorrt_library(path: Path) -> TensorRTLibrary:
    """What the file `path` says of itself; the same errors as `find_tensorrt_library`."""
    what = "TensorRT plugin library"
    try:
        if not path.is_file():
            expected = "the reformer operators' plugins"
            raise RuntimeUnavailableError(what, f"no {path}", expected, _how_to_get_it())
        marker = _find_marker(path)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"{what} {path}", f"'{reason_of(error)}'", "a readable file", "check its permissions"
        ) from error
    if marker is None:
        raise RuntimeUnavailableError(
            f"{what} {path}",
            "a file that is not it",
            "a shared library with the reformer operators' plugins",
            _how_to_get_it(),
        )
    abi_version, version, architectures = marker
    check_abi(f"{what} {path}", int(abi_version))
    return TensorRTLibrary(path, version, int(abi_version), parse_architectures(architectures))


def _how_to_get_it() -> str:
    return f"{how_to_build('--tensorrt')}, or name a built one with ${LIBRARY_VARIABLE}"


def _find_marker(path: Path) -> tuple[str, str, str] | None:
    """ABI version, version and CUDA architectures, or None where `path` is no library with the marker."""
    if path.stat().st_size < len(_ELF_MAGIC):
        return None
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _MARKER.search(data) if data[: len(_ELF_MAGIC)] == _ELF_MAGIC else None
        if found is None:
            return None
        abi_version, version, architectures = (group.decode("ascii") for group in found.groups())
        return abi_version, version, architectures
