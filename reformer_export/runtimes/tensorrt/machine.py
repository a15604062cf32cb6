"""What this machine has for running engines: plain facts, which the checks before loading compare."""

from __future__ import annotations

from dataclasses import dataclass

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES, EngineRuntime
from reformer_export.errors import ReformerExportError, RuntimeUnavailableError
from reformer_export.libraries.gpus import Gpu, find_gpus
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


def examine_gpu_machine(runtime: EngineRuntime) -> Machine:
    """This machine's facts for one runtime; imports TensorRT and asks the driver for the first visible GPU.

    Raises:
        MissingDependencyError: TensorRT or cuda-bindings is missing, or TensorRT is too old.
    """
    version = str(import_tensorrt(runtime).__version__)
    import_cuda()
    return _examine(version)


def _examine(version: str) -> Machine:
    gpu, library, gpu_problem, library_problem = None, None, "", ""
    try:
        gpu = find_gpus()[0]
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

    `runtimes` are pairs of a runtime's name and its version, or what to install.
    """

    runtimes: tuple[tuple[str, str], ...]
    plugin_library: str
    gpu: str
    can_run: tuple[EngineRuntime, ...]


def describe_installation() -> TensorRTInstallation:
    """Look at this machine, for `doctor`; TensorRT itself is not loaded. Raises nothing on purpose."""
    versions = {
        runtime: installed_version(PACKAGES[runtime].module, PACKAGES[runtime].distributions)
        for runtime in ENGINE_RUNTIMES
    }
    machine = _examine("")
    gpu_problem = machine.gpu_problem.removeprefix("GPU: ")
    try:
        import_cuda()
    except ReformerExportError as error:
        gpu_problem = str(error)
    usable = not gpu_problem and machine.library is not None
    return TensorRTInstallation(
        runtimes=tuple(
            (runtime, version or f"missing: {PACKAGES[runtime].install}")
            for runtime, version in versions.items()
        ),
        plugin_library=machine.library_problem or str(machine.library),
        gpu=gpu_problem or str(machine.gpu),
        can_run=tuple(runtime for runtime, version in versions.items() if usable and version),
    )
