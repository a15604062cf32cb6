"""Run an artifact: one small class a runtime, all with the same methods (`Runtime`).

Nothing here imports torch, transformers or, to run a float32 or float16 artifact, onnx: a server needs
numpy and a runtime only.
"""

from __future__ import annotations

import os
from typing import Final

from reformer_export.engine_record import ENGINE_RUNTIMES
from reformer_export.errors import InputError
from reformer_export.native import NativeMode
from reformer_export.runtimes.inputs import LeftPaddingWarning
from reformer_export.runtimes.runtime import Runtime

RUNTIMES: Final = ("onnxruntime", *ENGINE_RUNTIMES)

__all__ = ["RUNTIMES", "LeftPaddingWarning", "Runtime", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    runtime: str = "onnxruntime",
    provider: str = "auto",
    threads: int | None = None,
    native: NativeMode = "auto",
    engine: str | None = None,
    cuda_graphs: bool = False,
    num_hashes: int | None = None,
    check: bool = True,
) -> Runtime:
    """Open the artifact in the folder `path` with a runtime.

    with reformer_export.load("OUT", runtime="tensorrt") as model:
        logits = model.run([[5, 6, 7]])["logits"]

    Args:
        path: the folder written by `reformer-export onnx`.
        runtime: one of `RUNTIMES`.
        provider: "cpu", "cuda", or "auto" (CUDA when this machine has it).
        threads: CPU threads an operator may use; None lets the runtime choose.
        native: whether the CPU runs the native operator library's kernels: "auto" when it is installed,
            "on" (an error without it) or "off" (the function bodies in the file).
        engine: for TensorRT, which of the artifact's engines; None for the only one that fits this machine.
        cuda_graphs: for TensorRT, launch the work of shapes that come again as one CUDA graph.
        num_hashes: rounds of hashing of runs that name no other, for an artifact exported with --max-hashes;
            None for all of them.
        check: compare every file of the artifact with its SHA-256 in the manifest; an engine and its plugin
            library are always compared with the engine's record.

    `provider`, `threads`, `native` and `num_hashes` are ONNX Runtime's: TensorRT always takes the GPU, its
    plugins, and the hashes that were built in.

    Raises:
        InputError: an option is out of range, or not the chosen runtime's.
        ArtifactError: the artifact, or its engine, is missing, broken or of another version.
        MissingDependencyError: the runtime is not installed.
        RuntimeUnavailableError: this machine cannot run it, for example without a GPU.
    """
    if runtime == "onnxruntime":
        from reformer_export.runtimes.ort import OnnxRuntime

        _refuse_options(runtime, {"engine": engine is not None, "cuda_graphs": cuda_graphs})
        return OnnxRuntime(
            path, provider=provider, threads=threads, native=native, num_hashes=num_hashes, check=check
        )
    if runtime in ENGINE_RUNTIMES:
        from reformer_export.runtimes.tensorrt import TensorRTRuntime

        given = {"provider": provider == "cpu", "threads": threads is not None, "native": native == "off"}
        given["num_hashes"] = num_hashes is not None
        _refuse_options(runtime, given)
        return TensorRTRuntime(path, runtime=runtime, engine=engine, cuda_graphs=cuda_graphs, check=check)
    raise InputError(f"runtime: got {runtime!r}, expected one of {', '.join(RUNTIMES)}; choose one of them")


def _refuse_options(runtime: str, given: dict[str, bool]) -> None:
    """InputError for the first option that was given and means nothing to the runtime."""
    for name, is_given in given.items():
        if is_given:
            raise InputError(
                f"{name}: got one that {runtime} does not take, expected none for this runtime; "
                "leave it out, or choose another runtime"
            )
