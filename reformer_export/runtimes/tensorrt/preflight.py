"""Compare an engine's record with the machine, before anything of the engine is loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.artifact.engine_record import (
    ENGINE_RUNTIMES,
    ENGINE_SUFFIX,
    EngineRecord,
    EngineRuntime,
    list_engines,
    read_engine_record,
)
from reformer_export.artifact.files import resolve_inside, sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME, MODEL_NAME, Manifest
from reformer_export.errors import ArtifactError, InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.libraries.tensorrt import find_tensorrt_library
from reformer_export.runtimes.tensorrt.cuda import CudaBindingsDevice, CudaError
from reformer_export.runtimes.tensorrt.machine import Gpu, Machine
from reformer_export.runtimes.tensorrt.packages import (
    PACKAGES,
    import_cuda,
    import_tensorrt,
    version_numbers,
)

BUILD_AGAIN: Final = "build the engine again with `reformer-export engine`"
_FIRST_COMPATIBLE: Final = (8, 0)
"""Compute capability from which on a hardware-compatible TensorRT engine runs (Ampere and newer)."""


def examine_machine(runtime: EngineRuntime) -> Machine:
    """This machine's facts for one runtime; imports TensorRT and asks CUDA for the first visible GPU.

    Raises:
        MissingDependencyError: TensorRT or cuda-bindings is missing, or TensorRT is too old.
    """
    version = str(import_tensorrt(runtime).__version__)
    gpu, gpu_problem = _find_gpu(CudaBindingsDevice(import_cuda()))
    try:
        return Machine(version, gpu, find_tensorrt_library(), gpu_problem)
    except RuntimeUnavailableError as error:
        return Machine(version, gpu, None, gpu_problem, str(error))


def _find_gpu(device: CudaBindingsDevice) -> tuple[Gpu | None, str]:
    """The first GPU, or None and why there is none."""
    expected = "expected an NVIDIA GPU and its driver, which an engine needs"
    fix = "use a machine with one, or --runtime onnxruntime"
    try:
        if not device.has_driver():
            return None, f"GPU: got no NVIDIA driver, {expected}; {fix}"
        return device.describe(), ""
    except CudaError as error:
        return None, f"GPU: got '{error.text}' ({error.name}), {expected}; {fix}"


def choose_engine(folder: Path, runtime: EngineRuntime, name: str | None, machine: Machine) -> EngineRecord:
    """The record of the engine `name`, or of the only one that this machine can run.

    Args:
        folder: the artifact's.
        runtime: which runtime is to run it.
        name: an engine's name, or None for the one of this runtime; of several, the one that fits.
        machine: the facts it has to fit.

    Raises:
        InputError: `name` is no engine here or of another runtime, or several engines fit.
        ArtifactError: the record is broken, or the artifact has no engine of this runtime.
    """
    names = list_engines(folder)
    if name is not None:
        return _read_named(folder, runtime, name, names)
    records = [read_engine_record(folder, each) for each in names]
    records = [record for record in records if record.runtime == runtime]
    if not records:
        raise ArtifactError(
            f"{folder / ENGINES_NAME}: got no engine for {runtime}, expected one; "
            f"build it with `reformer-export engine {folder} --runtime {runtime}`"
        )
    fitting = [record for record in records if _fits(record, machine)] if len(records) > 1 else records
    if len(fitting) > 1:
        raise InputError(
            f"engine: got {len(fitting)} engines for {runtime} that fit this machine "
            f"({', '.join(record.name for record in fitting)}), expected one; name it with --engine"
        )
    return (fitting or records)[0]


def _read_named(folder: Path, runtime: EngineRuntime, name: str, names: tuple[str, ...]) -> EngineRecord:
    if name not in names:
        raise InputError(
            f"engine: got {name!r:.120}, expected one of this artifact's engines "
            f"({', '.join(names) or 'it has none'}); name one of them, or build one with "
            "`reformer-export engine`"
        )
    record = read_engine_record(folder, name)
    if record.runtime != runtime:
        raise InputError(
            f"engine {name}: got an engine for {record.runtime}, expected one for {runtime}; "
            f"use --runtime {record.runtime}, or name another engine"
        )
    return record


def _fits(record: EngineRecord, machine: Machine) -> bool:
    try:
        check_machine(record, machine)
    except ReformerExportError:
        return False
    return True


def check_machine(record: EngineRecord, machine: Machine) -> list[str]:
    """Compare what the engine was built for with the machine; what the user should know, a sentence each.

    Raises:
        RuntimeUnavailableError: there is no GPU or plugin library, or one of them, or the runtime's
            version, is not what the engine was built for.
    """
    _check_version(record, machine.runtime_version)
    if machine.gpu is None:
        raise RuntimeUnavailableError(machine.gpu_problem)
    _check_compute_capability(record, machine.gpu)
    return [] if record.plugin.embedded else _check_library(record, machine, machine.gpu)


def _check_version(record: EngineRecord, version: str) -> None:
    title = PACKAGES[record.runtime].title
    got, built = version_numbers(version), version_numbers(record.runtime_version)
    if got == built:
        return
    if not record.flags.version_compatible:
        expected = f"{record.runtime_version}, with which it was built"
    elif got[:1] != built[:1] or got < built:
        expected = f"{record.runtime_version} or a later {title} {built[0] if built else ''}"
    else:
        return
    raise RuntimeUnavailableError(
        f"engine {record.name}: got {title} {version}, expected {expected}; "
        f"install that version, or {BUILD_AGAIN}"
    )


def _check_compute_capability(record: EngineRecord, gpu: Gpu) -> None:
    if gpu.compute_capability in record.compute_capabilities:
        return
    compatible = record.runtime == "tensorrt" and record.flags.hardware_compatible
    if compatible and gpu.capability >= _FIRST_COMPATIBLE:
        return
    expected = " or ".join(record.compute_capabilities)
    if compatible:
        expected = ".".join(map(str, _FIRST_COMPATIBLE)) + " or newer"
    raise RuntimeUnavailableError(
        f"engine {record.name}: got a GPU of compute capability {gpu.compute_capability} ({gpu.name}), "
        f"expected {expected}, for which it was built; {BUILD_AGAIN} for this GPU, or use another engine"
    )


def _check_library(record: EngineRecord, machine: Machine, gpu: Gpu) -> list[str]:
    library = machine.library
    if library is None:
        raise RuntimeUnavailableError(machine.library_problem)
    what = f"engine {record.name}, plugin library {library.path}"
    if library.abi_version != record.plugin.abi_version:
        raise RuntimeUnavailableError(
            f"{what}: got ABI version {library.abi_version}, expected {record.plugin.abi_version}, with "
            f"which the engine was built; install that release's library, or {BUILD_AGAIN}"
        )
    got = sha256_of_file(library.path)
    if got != record.plugin.sha256:
        raise RuntimeUnavailableError(
            f"{what}: got SHA-256 {got[:16]}... (version {library.version}), expected "
            f"{record.plugin.sha256[:16]}... (version {record.plugin.version}), with which the engine was "
            f"built; install that library, or {BUILD_AGAIN}"
        )
    return _check_architectures(what, library.cuda_architectures, gpu)


def _check_architectures(what: str, architectures: tuple[int, ...], gpu: Gpu) -> list[str]:
    """Machine code runs on GPUs of its own major version from its own minor on; the newest is there as PTX
    too, which the driver compiles for later GPUs (CUDA C++ Programming Guide, application compatibility)."""
    major, minor = gpu.capability
    if any(number // 10 == major and number % 10 <= minor for number in architectures):
        return []
    kernels = ", ".join(f"sm_{number}" for number in architectures)
    if 10 * major + minor < max(architectures):
        raise RuntimeUnavailableError(
            f"{what}: got kernels for {kernels}, expected some for compute capability "
            f"{gpu.compute_capability} ({gpu.name}); build the library for sm_{major}{minor}"
        )
    return [
        f"The plugin library has kernels for {kernels}: the driver compiles the last of them for this GPU, "
        "which takes time at the first run."
    ]


def read_engine(folder: Path, manifest: Manifest, record: EngineRecord) -> bytes:
    """The engine's bytes, when they and the model are those of the record.

    The bytes that were checked are the ones returned: the file cannot change in between.

    Raises:
        ArtifactError: the file is missing or another one, or the artifact's model changed since.
    """
    if manifest.files[MODEL_NAME] != record.model_sha256:
        raise ArtifactError(
            f"engine {record.name}: got {MODEL_NAME} of SHA-256 {manifest.files[MODEL_NAME][:16]}..., "
            f"expected {record.model_sha256[:16]}..., from which it was built; {BUILD_AGAIN}"
        )
    path = resolve_inside(folder, f"{ENGINES_NAME}/{record.name}{ENGINE_SUFFIX}")
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise ArtifactError(f"{path}: got no such file, expected the engine; {BUILD_AGAIN}")
        if size != record.engine_bytes:
            raise ArtifactError(
                f"{path}: got {size} bytes, expected {record.engine_bytes} as its record says; "
                f"copy it again, or {BUILD_AGAIN}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: got '{error.strerror or error}', expected a readable file; check its permissions"
        ) from error
    got = hashlib.sha256(data).hexdigest()
    if got != record.engine_sha256:
        raise ArtifactError(
            f"{path}: got SHA-256 {got[:16]}..., expected {record.engine_sha256[:16]}... as its record says; "
            f"copy it again, or {BUILD_AGAIN}"
        )
    return data


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
    versions = {runtime: _installed_version(runtime) for runtime in ENGINE_RUNTIMES}
    try:
        gpu, gpu_words = _find_gpu(CudaBindingsDevice(import_cuda()))
    except ReformerExportError as error:
        gpu, gpu_words = None, str(error)
    try:
        library, library_words = find_tensorrt_library(), ""
    except ReformerExportError as error:
        library, library_words = None, str(error)
    usable = gpu is not None and library is not None
    return TensorRTInstallation(
        runtimes=tuple(
            (runtime, version or f"missing: {PACKAGES[runtime].install}")
            for runtime, version in versions.items()
        ),
        plugin_library=str(library) if library else library_words,
        gpu=str(gpu) if gpu else gpu_words.removeprefix("GPU: "),
        can_run=tuple(runtime for runtime, version in versions.items() if usable and version),
    )


def _installed_version(runtime: EngineRuntime) -> str | None:
    if importlib.util.find_spec(PACKAGES[runtime].module) is None:
        return None
    for distribution in PACKAGES[runtime].distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"
