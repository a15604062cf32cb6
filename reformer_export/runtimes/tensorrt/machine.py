"""What this machine has for running engines: plain facts, which the checks before loading compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES, EngineRuntime
from reformer_export.errors import ReformerExportError, RuntimeUnavailableError
from reformer_export.libraries.gpus import Gpu, find_gpu
from reformer_export.libraries.tensorrt import TensorRTLibrary, find_tensorrt_library
from reformer_export.runtimes.tensorrt.packages import (
    PACKAGES,
    import_cuda,
    import_tensorrt,
    installed_version,
)


@dataclass(frozen=True)
class Machine:
    """A runtime's version, the GPU and the plugin library; where one of the latter is None, its `_problem`
    says why, as a whole message."""

    runtime_version: str
    gpu: Gpu | None
    library: TensorRTLibrary | None
    gpu_problem: str = ""
    library_problem: str = ""


def examine_gpu_machine(runtime: EngineRuntime, device_id: int | None = None) -> Machine:
    """This machine's facts for one runtime; imports TensorRT and asks the driver for the visible GPU of that
    index, None for the first.

    Raises:
        MissingDependencyError: TensorRT or cuda-bindings is missing, or TensorRT is too old.
    """
    version = str(import_tensorrt(runtime).__version__)
    gpu, library, gpu_problem, library_problem = None, None, "", ""
    try:
        gpu = _find_gpu(device_id)
    except RuntimeUnavailableError as error:
        expected = f"{error.expected}, which an engine needs"
        fix = 'use a machine with one, or `runtime="onnxruntime"`'
        gpu_problem = str(RuntimeUnavailableError(error.what, error.got, expected, fix))
    try:
        library = find_tensorrt_library()
    except RuntimeUnavailableError as error:
        library_problem = str(error)
    return Machine(version, gpu, library, gpu_problem, library_problem)


@dataclass(frozen=True)
class TensorRTInstallation:
    """What is installed for running engines, in words; `can_run` names the runtimes that lack nothing.

    `runtimes` are pairs of a runtime's name and its version, or what to install. `missing_to_build` is what
    building an engine still needs here, for the runtime that needs least; none where one can build.
    """

    runtimes: tuple[tuple[str, str], ...]
    plugin_library: str
    gpu: str
    can_run: tuple[EngineRuntime, ...]
    missing_to_build: tuple[str, ...]


def describe_installation() -> TensorRTInstallation:
    """Look at this machine, for `doctor`; TensorRT itself is not loaded. Raises nothing on purpose."""
    versions = {
        runtime: installed_version(PACKAGES[runtime].module, PACKAGES[runtime].distributions)
        for runtime in ENGINE_RUNTIMES
    }
    gpu, has_gpu = _describe(_find_gpu)
    library, has_library = _describe(find_tensorrt_library)
    return TensorRTInstallation(
        runtimes=tuple(
            (runtime, version or f"missing: {PACKAGES[runtime].install}")
            for runtime, version in versions.items()
        ),
        plugin_library=library,
        gpu=gpu,
        can_run=tuple(
            runtime for runtime, version in versions.items() if version and has_gpu and has_library
        ),
        missing_to_build=_missing_to_build(versions, has_gpu, has_library),
    )


def _missing_to_build(
    versions: Mapping[EngineRuntime, str | None], has_gpu: bool, has_library: bool
) -> tuple[str, ...]:
    """TensorRT-RTX builds without a GPU, TensorRT does not; both build with the plugin library only."""
    installed = [runtime for runtime, version in versions.items() if version]
    runtime = [] if installed else [" or ".join(PACKAGES[runtime].module for runtime in versions)]
    gpu = ["a GPU"] if installed == ["tensorrt"] and not has_gpu else []
    return (*runtime, *([] if has_library else ["the TensorRT plugins"]), *gpu)


def _find_gpu(device_id: int | None = None) -> Gpu:
    import_cuda()  # without it an engine can use none
    return find_gpu(device_id)


def _describe(find: Callable[[], object]) -> tuple[str, bool]:
    """What is found, in words, or why it is not; and whether it is."""
    try:
        return str(find()), True
    except ReformerExportError as error:
        return str(error).removeprefix("GPU: "), False
