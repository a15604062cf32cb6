"""The native operator library: where it is, and whether it fits this version.

One shared library holds the fused kernels (a C interface, plugins/include/reformer_kernels.h) for the CPU
and, where built so, for CUDA; and the adapter that ONNX Runtime registers. Without it everything works, on
generic operators.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability, code_for, parse_architectures
from reformer_export.libraries.compiler import how_to_build
from reformer_export.libraries.installed import check_abi, library_name, library_path

NativeMode = Literal["auto", "on", "off"]
NATIVE_MODES: Final[tuple[NativeMode, ...]] = get_args(NativeMode)

MAX_CUDA_HEAD_SIZE: Final = 256
"""REFORMER_CUDA_MAX_HEAD_SIZE of the C header, elements."""

LIBRARY_VARIABLE: Final = "REFORMER_EXPORT_LIBRARY"
"""Environment variable: another library than the installed one, for trying a build."""

PRODUCTS_VARIABLE: Final = "REFORMER_CPU_PRODUCTS"
"""Environment variable: the instructions of Linear's CPU kernels, for trying others than the best ones."""

_INT8_PRODUCTS: Final = {
    "none": None,
    "avx2": "AVX2",
    "avx-vnni": "AVX-VNNI",
    "avx512": "AVX512-VNNI",
    "amx": "AMX",
}
"""What the library says of itself for each value of `PRODUCTS_VARIABLE` (plugins/kernels/cpu/linear)."""

_STEM: Final = "reformer_onnxruntime"


@dataclass(frozen=True)
class NativeLibrary:
    """A library that fits. `cpu_target` is the instruction set that its CPU kernels use on this machine;
    `cuda_architectures` says what its CUDA kernels were compiled for, such as "80,86,90"; None: it has none.
    `int8_products`, `bfloat16_products` and `float32_products` are the instructions that Linear's CPU kernels
    use on this machine for such weights; None: this processor has none, or none faster than ONNX Runtime's
    products of float32.
    """

    path: Path
    version: str
    abi_version: int
    cpu_target: str
    cuda_architectures: str | None = None
    int8_products: str | None = None
    bfloat16_products: str | None = None
    float32_products: str | None = None

    @property
    def architectures(self) -> tuple[int, ...]:
        """Those of the CUDA kernels as numbers; none without CUDA."""
        return parse_architectures(self.cuda_architectures or "")

    def has_code_for(self, major: int, minor: int) -> bool:
        """Whether the CUDA kernels run on a GPU of compute capability `major`.`minor`."""
        return code_for(self.architectures, ComputeCapability(major, minor)) is not None

    def __str__(self) -> str:
        cuda = f", CUDA {self.cuda_architectures}" if self.cuda_architectures else ""
        return f"{self.version} (ABI {self.abi_version}, {self.cpu_target}{cuda})"

    @property
    def products(self) -> dict[str, str]:
        """The instructions of Linear's CPU kernels on this machine, by the type of its weights."""
        products = {
            "int8": self.int8_products,
            "bfloat16": self.bfloat16_products,
            "float32": self.float32_products,
        }
        return {kind: name for kind, name in products.items() if name is not None}

    @property
    def cpu_instructions(self) -> str:
        """Those that the CPU kernels have on this machine, such as "AVX-512, int8 with AVX512-VNNI"."""
        return ", ".join([self.cpu_target, *(f"{kind} with {name}" for kind, name in self.products.items())])


def find_native_library(mode: NativeMode = "auto") -> NativeLibrary | None:
    """The library to use: None when `mode` is "off", or "auto" and there is none.

    Raises:
        InputError: `mode` is none of `NATIVE_MODES`.
        RuntimeUnavailableError: "on" and there is none, or the library does not fit this version.
    """
    if mode not in NATIVE_MODES:
        raise InputError("native", repr(mode), f"one of {', '.join(NATIVE_MODES)}", "choose one of them")
    if mode == "off":
        return None
    path = library_path(_STEM, LIBRARY_VARIABLE)
    if path.is_file() or os.environ.get(LIBRARY_VARIABLE):
        return describe_library(path)
    if mode == "on":
        raise RuntimeUnavailableError(
            "native library",
            "none",
            f"{library_name(_STEM)} beside the package",
            f'{how_to_build()}, or use `native="auto"`',
        )
    return None


class _LibraryInfo(ctypes.Structure):
    """reformer_library of the C header."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("version", ctypes.c_char_p),
        ("cpu_target", ctypes.c_char_p),
        ("cuda_architectures", ctypes.c_char_p),
        ("int8_products", ctypes.c_char_p),
        ("bfloat16_products", ctypes.c_char_p),
        ("float32_products", ctypes.c_char_p),
    ]


@functools.lru_cache(maxsize=8)
def describe_library(path: Path) -> NativeLibrary:
    """The library in the file `path`; RuntimeUnavailableError when it does not fit this version."""
    info = _LibraryInfo(struct_size=ctypes.sizeof(_LibraryInfo))
    what = f"native library {path}"
    try:
        status = ctypes.CDLL(str(path)).reformer_library_info(ctypes.byref(info))
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(
            what,
            f"'{error}'",
            "reformer-export's operator library",
            f'unset {LIBRARY_VARIABLE} or install it again, or use `native="off"`',
        ) from error
    # A library whose reformer_library has another size does not say its version.
    check_abi(what, info.abi_version if status == 0 else 0, ', or use `native="off"`')
    _check_products(_decode(info.int8_products))
    return NativeLibrary(
        path,
        info.version.decode(),
        int(info.abi_version),
        info.cpu_target.decode(),
        _decode(info.cuda_architectures),
        _decode(info.int8_products),
        _decode(info.bfloat16_products),
        _decode(info.float32_products),
    )


def _check_products(int8_products: str | None) -> None:
    """RuntimeUnavailableError where the library does not use the instructions that the environment names: it
    ignores others than its own, and those that this processor has not got."""
    wanted = os.environ.get(PRODUCTS_VARIABLE)
    if wanted and _INT8_PRODUCTS.get(wanted, "") != int8_products:
        expected = f"one of {', '.join(_INT8_PRODUCTS)} that this processor has"
        raise RuntimeUnavailableError(f"${PRODUCTS_VARIABLE}", repr(wanted), expected, "unset it")


def _decode(text: bytes | None) -> str | None:
    return None if text is None else text.decode()
