"""Run an artifact: one small class a runtime, all with the same methods (`Runtime`).

Nothing here imports torch, transformers or, to run a float32 or float16 artifact, onnx: a server needs
numpy and a runtime only.
"""

from __future__ import annotations

import os
from typing import Final

from reformer_export.errors import InputError
from reformer_export.native import NativeMode
from reformer_export.runtimes.inputs import LeftPaddingWarning
from reformer_export.runtimes.runtime import Runtime

RUNTIMES: Final = ("onnxruntime",)

__all__ = ["RUNTIMES", "LeftPaddingWarning", "Runtime", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    runtime: str = "onnxruntime",
    provider: str = "auto",
    threads: int | None = None,
    native: NativeMode = "auto",
) -> Runtime:
    """Open the artifact in the folder `path` with a runtime.

    Args:
        path: the folder written by `reformer-export onnx`.
        runtime: one of `RUNTIMES`.
        provider: "cpu", "cuda", or "auto" (CUDA when this machine has it).
        threads: CPU threads an operator may use; None lets the runtime choose.
        native: whether the CPU runs the native operator library's kernels: "auto" when it is installed,
            "on" (an error without it) or "off" (the function bodies in the file).
    """
    if runtime == "onnxruntime":
        from reformer_export.runtimes.ort import OnnxRuntime

        return OnnxRuntime(path, provider=provider, threads=threads, native=native)
    raise InputError(f"runtime: got {runtime!r}, expected one of {', '.join(RUNTIMES)}; choose one of them")
