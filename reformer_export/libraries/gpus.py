"""The NVIDIA GPUs of this machine, asked of NVIDIA's driver: nothing else need be installed.

The driver hides those that CUDA_VISIBLE_DEVICES leaves out. Importing this asks nothing. Asking starts CUDA
in this process: a child that it forks afterwards cannot use CUDA. Starting programs is harmless.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any, Final

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability

DRIVER: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_MAJOR: Final = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of cuda.h; the minor version's is the next
_MINOR: Final = 76
_NAME_BYTES: Final = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU: all its memory in bytes; the newest CUDA that its driver knows, such as "13.0"."""

    name: str
    compute_capability: ComputeCapability
    memory_bytes: int
    cuda_version: str = ""

    def __str__(self) -> str:
        gibibytes = self.memory_bytes / 2**30
        return f"{self.name} (compute capability {self.compute_capability}, {gibibytes:.1f} GiB)"


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, one or more.

    Raises:
        RuntimeUnavailableError: there is none, or no driver that fits; the message says why.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise _no_gpu("no NVIDIA driver") from error
    try:
        _call(driver, "cuInit", 0)
        version = _ask(driver, "cuDriverGetVersion")
        count = _ask(driver, "cuDeviceGetCount")
        gpus = tuple(_describe(driver, index, version) for index in range(count))
    except AttributeError as error:
        raise _no_gpu(f"a driver that is too old ('{error}')") from error
    if not gpus:
        raise _no_gpu("a driver and no GPU")
    return gpus


def find_gpu(device_id: int | None = None) -> Gpu:
    """The GPU of that index among `find_gpus`; None for the first. RuntimeUnavailableError without it."""
    gpus = find_gpus()
    index = device_id or 0
    if index >= len(gpus):
        expected = f"0 to {len(gpus) - 1}, of the GPUs that this process may use"
        raise RuntimeUnavailableError(
            "device_id", index, expected, "choose another, or look at CUDA_VISIBLE_DEVICES"
        )
    return gpus[index]


def _describe(driver: Any, index: int, version: int) -> Gpu:
    device = _ask(driver, "cuDeviceGet", index)
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (_ask(driver, "cuDeviceGetAttribute", number, device) for number in (_MAJOR, _MINOR))
    return Gpu(
        name.value.decode("utf-8", "replace"),
        ComputeCapability(major, minor),
        memory.value,
        f"{version // 1000}.{version % 1000 // 10}",
    )


def _ask(driver: Any, function: str, *arguments: int) -> int:
    """The int that a function of the driver writes to its first argument."""
    value = ctypes.c_int()
    _call(driver, function, ctypes.byref(value), *arguments)
    return value.value


def _call(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status != 0:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(name))
        reason = name.value.decode() if name.value else f"error {status}"
        raise _no_gpu(f"'{reason}' from the driver's {function}")


def _no_gpu(got: str) -> RuntimeUnavailableError:
    fix = "use a machine with one, or look at CUDA_VISIBLE_DEVICES"
    return RuntimeUnavailableError("GPU", got, "an NVIDIA GPU and its driver", fix)
