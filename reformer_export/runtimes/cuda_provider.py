"""Whether this machine has the libraries that ONNX Runtime's CUDA provider needs.

Asked before ONNX Runtime tries: where one is missing it writes coloured lines of its own to standard error,
and goes on without CUDA.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from pathlib import Path
from typing import Any, Final

from reformer_export.libraries.elf import list_needed
from reformer_export.libraries.gpus import DRIVER
from reformer_export.runtimes.ort_errors import ProviderError

PROVIDER_NAME: Final = "libonnxruntime_providers_cuda.so"
INSTALL: Final = "pip install 'reformer-export[gpu]'"


def preload_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA's and cuDNN's libraries from the packages that bring them, where the module can."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def find_missing_libraries(onnxruntime: Any) -> tuple[str, ...]:
    """What the CUDA provider of the module `onnxruntime` needs and does not find here, such as libcuda.so.1,
    which is the driver's, or libcublas.so.13; none where the system names its libraries otherwise."""
    preload_cuda_libraries(onnxruntime)
    try:
        needed = list_needed(Path(onnxruntime.__file__).parent / "capi" / PROVIDER_NAME)
    except (OSError, TypeError):
        return ()
    return tuple(name for name in needed if not _loads(name))


def check_cuda_libraries(onnxruntime: Any) -> None:
    """Load what the packages bring; ProviderError when something that the CUDA provider needs is missing."""
    missing = find_missing_libraries(onnxruntime)
    if missing:
        fix = "install NVIDIA's driver" if DRIVER in missing else INSTALL
        raise ProviderError(describe_missing(missing), "NVIDIA's driver and CUDA's libraries", fix)


def describe_missing(missing: tuple[str, ...]) -> str:
    """What is missing and what to do, in one sentence without a full stop."""
    parts = []
    if DRIVER in missing:
        parts.append(f"no NVIDIA driver ({DRIVER})")
    others = [name for name in missing if name != DRIVER]
    if others:
        parts.append(f"no {', no '.join(others)} ({INSTALL} brings CUDA's libraries)")
    return " and ".join(parts)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
