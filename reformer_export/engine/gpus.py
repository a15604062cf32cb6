"""The GPU of this machine, asked of NVIDIA's driver itself: the building process may have nothing else."""

from __future__ import annotations

import ctypes
from typing import Final

from reformer_export.errors import InputError, RuntimeUnavailableError

LEAST_COMPUTE_CAPABILITY: Final = (8, 0)
"""The plugins' kernels need Ampere or newer."""

DRIVER: Final = "libcuda.so.1"
_MAJOR: Final = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR; the minor version's is the next
_MINOR: Final = 76


def find_gpu() -> str | None:
    """The compute capability of the first GPU, such as "8.9"; None without a GPU or its driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
    return f"{major.value}.{minor.value}"


def choose_compute_capabilities(asked: tuple[str, ...], supported: tuple[str, ...]) -> tuple[str, ...]:
    """What a TensorRT-RTX engine is built for: those `asked` for, else this machine's GPU.

    Raises:
        InputError: one of them is not among the `supported`.
        RuntimeUnavailableError: none is asked for, and there is no GPU.
    """
    gpu = None if asked else find_gpu()
    if not asked and gpu is None:
        raise RuntimeUnavailableError(
            "--compute-capability: got none on a machine without an NVIDIA GPU, expected the GPUs that the "
            f"engine is for; give it once for each, from {', '.join(supported)}"
        )
    chosen = asked or (str(gpu),)
    for text in chosen:
        if text not in supported:
            whose = "" if asked else ", this machine's GPU"
            raise InputError(
                f"--compute-capability: got {text}{whose}, expected one of {', '.join(supported)}, which are "
                "what this TensorRT-RTX and the plugins have kernels for; for another GPU, build on it with "
                "--runtime tensorrt"
            )
    return chosen


def check_tensorrt_gpu() -> str:
    """This machine's compute capability; RuntimeUnavailableError when TensorRT cannot build for it."""
    gpu = find_gpu()
    least = ".".join(map(str, LEAST_COMPUTE_CAPABILITY))
    if gpu is None:
        raise RuntimeUnavailableError(
            "--runtime tensorrt: got a machine without an NVIDIA GPU, expected the GPU that the engine is "
            "for; build it there, or build with --runtime tensorrt-rtx and --compute-capability"
        )
    if capability_numbers(gpu) < LEAST_COMPUTE_CAPABILITY:
        raise RuntimeUnavailableError(
            f"GPU: got compute capability {gpu}, expected {least} or newer; use a newer GPU"
        )
    return gpu


def capability_numbers(text: str) -> tuple[int, int]:
    """(8, 9) of "8.9"."""
    major, minor = text.split(".")
    return int(major), int(minor)
