"""The native operator library: where it is, and whether it fits this version.

One shared library holds the fused kernels (a C interface, plugins/include/reformer_kernels.h) for the CPU
and, where built so, for CUDA; and the adapter that ONNX Runtime registers. Without it everything works, on
generic operators.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from reformer_export.errors import InputError, RuntimeUnavailableError

NativeMode = Literal["auto", "on", "off"]
NATIVE_MODES: Final[tuple[NativeMode, ...]] = get_args(NativeMode)

ABI_VERSION: Final = 2
"""REFORMER_ABI_VERSION of the header that this version's callers were written for."""

MAX_CUDA_HEAD_SIZE: Final = 256
"""REFORMER_CUDA_MAX_HEAD_SIZE of that header, elements."""

LIBRARY_VARIABLE: Final = "REFORMER_EXPORT_LIBRARY"
"""Environment variable: another library than the installed one, for trying a build."""

_SUFFIX: Final = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_NAME: Final = f"{'' if sys.platform == 'win32' else 'lib'}reformer_onnxruntime{_SUFFIX}"
HOW_TO_GET_IT: Final = (
    "install a C++ compiler, then `pip install --force-reinstall --no-deps reformer-export` (or, in a clone, "
    "`make native`)"
)


@dataclass(frozen=True)
class NativeLibrary:
    """A library that fits. `cpu_target` is the instruction set that its CPU kernels use on this machine;
    `cuda_architectures` says what its CUDA kernels were compiled for, such as "80,86,90"; None: it has none.
    """

    path: Path
    version: str
    abi_version: int
    cpu_target: str
    cuda_architectures: str | None = None

    def has_code_for(self, major: int, minor: int) -> bool:
        """Whether the CUDA kernels run on a GPU of compute capability `major`.`minor`.

        Compiled code runs on its own major version from its own minor version up; the newest is there as PTX
        too, which the driver compiles for whatever came later.
        """
        numbers = [int(number) for number in (self.cuda_architectures or "").split(",") if number]
        return any(number // 10 == major and number % 10 <= minor for number in numbers) or (
            bool(numbers) and 10 * major + minor > max(numbers)
        )

    def __str__(self) -> str:
        cuda = f", CUDA {self.cuda_architectures}" if self.cuda_architectures else ""
        return f"{self.version} (ABI {self.abi_version}, {self.cpu_target}{cuda})"


def find_native_library(mode: NativeMode = "auto") -> NativeLibrary | None:
    """The library to use: None when `mode` is "off", or "auto" and there is none.

    Raises:
        InputError: `mode` is none of `NATIVE_MODES`.
        RuntimeUnavailableError: "on" and there is none, or the library does not fit this version.
    """
    if mode not in NATIVE_MODES:
        raise InputError(
            f"native: got {mode!r}, expected one of {', '.join(NATIVE_MODES)}; choose one of them"
        )
    if mode == "off":
        return None
    path = library_path()
    if path is None and mode == "on":
        raise RuntimeUnavailableError(
            f"native library: got none, expected {_NAME} beside the package; "
            f"{HOW_TO_GET_IT}, or use --native auto"
        )
    return None if path is None else describe_library(path)


def library_path() -> Path | None:
    """The file that $REFORMER_EXPORT_LIBRARY names, else the one installed with the package, else None."""
    chosen = os.environ.get(LIBRARY_VARIABLE)
    path = Path(chosen) if chosen else Path(__file__).parents[1] / "_native" / _NAME
    return path.resolve() if chosen or path.is_file() else None


class _LibraryInfo(ctypes.Structure):
    """reformer_library of the C header."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("version", ctypes.c_char_p),
        ("cpu_target", ctypes.c_char_p),
        ("cuda_architectures", ctypes.c_char_p),
    ]


@functools.lru_cache(maxsize=8)
def describe_library(path: Path) -> NativeLibrary:
    """The library in the file `path`; RuntimeUnavailableError when it does not fit this version."""
    info = _LibraryInfo(struct_size=ctypes.sizeof(_LibraryInfo))
    try:
        status = ctypes.CDLL(str(path)).reformer_library_info(ctypes.byref(info))
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"native library {path}: got '{error}', expected reformer-export's operator library; "
            f"unset {LIBRARY_VARIABLE} or install it again, or use --native off"
        ) from error
    if info.abi_version != ABI_VERSION or status != 0:
        # A library whose reformer_library has another size does not say its version.
        raise RuntimeUnavailableError(
            f"native library {path}: got ABI version {info.abi_version or 'unknown'}, expected "
            f"{ABI_VERSION}; install the library and the package from one release, or use --native off"
        )
    architectures = info.cuda_architectures.decode() if info.cuda_architectures else None
    return NativeLibrary(
        path, info.version.decode(), int(info.abi_version), info.cpu_target.decode(), architectures
    )
