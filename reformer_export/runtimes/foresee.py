"""What would run an artifact on this machine, told without starting it."""

from __future__ import annotations

from reformer_export.errors import ReformerExportError
from reformer_export.libraries.gpus import find_gpus
from reformer_export.libraries.operators import find_native_library
from reformer_export.runtimes.cuda_provider import find_missing_libraries
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.ort_notes import find_cuda_problem
from reformer_export.runtimes.ort_session import CPU, CUDA, Placement, choose_provider, import_onnxruntime
from reformer_export.spec import ModelSpec


def foresee_runtime(spec: ModelSpec) -> str:
    """What `run` uses here where nobody chooses, in the words of `Runtime.description`; why none, where none.

    CUDA is named where ONNX Runtime has it, its libraries and a GPU are found; whether it starts, only
    running tells.
    """
    options = RuntimeOptions()
    try:
        provider, library = choose_provider(options.provider), find_native_library(options.native)
    except ReformerExportError as error:
        return f"nothing: {error}"
    if provider == CUDA and not _has_gpu():
        provider = CPU
    if library is not None and provider == CUDA and find_cuda_problem(library, spec) is not None:
        library = None
    return Placement(provider, library=library).description


def _has_gpu() -> bool:
    try:
        return bool(find_gpus()) and not find_missing_libraries(import_onnxruntime())
    except ReformerExportError:
        return False
