"""Compare an engine's record with the machine, before anything of the engine is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_record import (
    ENGINE_SUFFIX,
    EngineRecord,
    EngineRuntime,
    list_engines,
    read_engine_record,
)
from reformer_export.artifact.files import reading, resolve_inside, sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME, MODEL_NAME, Manifest
from reformer_export.errors import ArtifactError, InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.packages import PACKAGES, version_numbers

BUILD_AGAIN: Final = "build the engine again with `reformer-export engine`"
_FIRST_COMPATIBLE: Final = ComputeCapability(8, 0)
"""From which on a hardware-compatible TensorRT engine runs (Ampere and newer)."""


def choose_engine(
    folder: Path, runtime: EngineRuntime, name: str | None, machine: Machine, decode: bool = False
) -> EngineRecord:
    """The record of the engine `name`, or of the only one that this machine can run.

    Args:
        folder: the artifact's.
        runtime: which runtime is to run it.
        name: an engine's name, or None for the one of this runtime; of several, the one that fits.
        machine: the facts it has to fit.
        decode: whether it is to continue sequences (decode.onnx) or to take them whole (model.onnx).

    Raises:
        InputError: `name` is no engine here, or of another runtime or graph, or several engines fit.
        ArtifactError: the record is broken, or the artifact has no such engine of this runtime.
    """
    names = list_engines(folder)
    if name is not None:
        return _read_named(folder, runtime, name, names, decode)
    records = [read_engine_record(folder, each) for each in names]
    records = [record for record in records if record.runtime == runtime and record.decodes == decode]
    if not records:
        kind = "engine of decode.onnx" if decode else "engine"
        flag = " --decode" if decode else ""
        fix = f"build it with `reformer-export engine {folder} --runtime {runtime}{flag}`"
        raise ArtifactError(folder / ENGINES_NAME, f"no {kind} for {runtime}", "one", fix)
    fitting = [record for record in records if _fits(record, machine)] if len(records) > 1 else records
    if len(fitting) > 1:
        found = ", ".join(record.name for record in fitting)
        got = f"{len(fitting)} engines for {runtime} that fit this machine ({found})"
        raise InputError("engine", got, "one", "name it with `engine`")
    return (fitting or records)[0]


def _read_named(
    folder: Path, runtime: EngineRuntime, name: str, names: tuple[str, ...], decode: bool
) -> EngineRecord:
    if name not in names:
        raise InputError(
            "engine",
            f"{name!r:.120}",
            f"one of this artifact's engines ({', '.join(names) or 'it has none'})",
            "name one of them, or build one with `reformer-export engine`",
        )
    record = read_engine_record(folder, name)
    if record.runtime != runtime:
        raise InputError(
            f"engine {name}",
            f"an engine for {record.runtime}",
            f"one for {runtime}",
            f'use `runtime="{record.runtime}"`, or name another engine',
        )
    if record.decodes != decode:
        raise InputError(
            f"engine {name}",
            f"an engine of {record.model_name}",
            f"one of {DECODE_NAME if decode else MODEL_NAME}",
            "name another engine, or build one with `reformer-export engine`",
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
    fix = f"install that version, or {BUILD_AGAIN}"
    raise RuntimeUnavailableError(f"engine {record.name}", f"{title} {version}", expected, fix)


def _check_compute_capability(record: EngineRecord, gpu: Gpu) -> None:
    if str(gpu.compute_capability) in record.compute_capabilities:
        return
    compatible = record.runtime == "tensorrt" and record.flags.hardware_compatible
    if compatible and gpu.compute_capability >= _FIRST_COMPATIBLE:
        return
    built = f"{_FIRST_COMPATIBLE} or newer" if compatible else " or ".join(record.compute_capabilities)
    raise RuntimeUnavailableError(
        f"engine {record.name}",
        f"a GPU of compute capability {gpu.compute_capability} ({gpu.name})",
        f"{built}, for which it was built",
        f"{BUILD_AGAIN} for this GPU, or use another engine",
    )


def _check_library(record: EngineRecord, machine: Machine, gpu: Gpu) -> list[str]:
    library = machine.library
    if library is None:
        raise RuntimeUnavailableError(machine.library_problem)
    what = f"engine {record.name}, plugin library {library.path}"
    if library.abi_version != record.plugin.abi_version:
        raise RuntimeUnavailableError(
            what,
            f"ABI version {library.abi_version}",
            f"{record.plugin.abi_version}, with which the engine was built",
            f"install that release's library, or {BUILD_AGAIN}",
        )
    got, built = sha256_of_file(library.path), record.plugin
    if got != built.sha256:
        raise RuntimeUnavailableError(
            what,
            f"SHA-256 {got[:16]}... (version {library.version})",
            f"{built.sha256[:16]}... (version {built.version}), with which the engine was built",
            f"install that library, or {BUILD_AGAIN}",
        )
    code = library.code_for(gpu.compute_capability)
    if code is None:
        raise RuntimeUnavailableError(
            what,
            f"kernels for {library.kernels}",
            f"some for compute capability {gpu.compute_capability} ({gpu.name})",
            f"build the library for sm_{gpu.compute_capability.architecture}",
        )
    if code == "machine code":
        return []
    return [
        f"The plugin library has kernels for {library.kernels}: the driver compiles the last of them for "
        "this GPU, which takes time at the first run."
    ]


def check_num_hashes(record: EngineRecord, manifest: Manifest, given: int | None) -> int | None:
    """The rounds of hashing that the engine has built in; None for a model without the choice.

    Raises:
        InputError: other rounds are `given`, or there is no choice.
        ArtifactError: the record says nothing of them, or what the model has not.
    """
    choice = manifest.runtime_num_hashes
    greatest = None if choice is None else choice.max_hashes
    if (record.num_hashes is None) != (greatest is None) or (record.num_hashes or 0) > (greatest or 0):
        got, expected = f"{record.num_hashes} hashes built in", f"1 to {greatest}"
        if greatest is None:
            expected = "those of a model that leaves no choice"
        raise ArtifactError(f"engine {record.name}", got, expected, BUILD_AGAIN)
    if choose_num_hashes(manifest, given, record.num_hashes) != record.num_hashes:
        fix = "leave it out, name another engine, or build one with `reformer-export engine`"
        expected = f"{record.num_hashes}, which are built into the engine {record.name}"
        raise InputError("num_hashes", given, expected, fix)
    return record.num_hashes


def check_host_code(record: EngineRecord, allowed: bool) -> None:
    """InputError for an engine that carries machine code for the host, unless that is `allowed`.

    Its SHA-256 says that it is unchanged, not who made it: such an engine is a program.
    """
    if record.host_code is None or allowed:
        return
    raise InputError(
        f"engine {record.name}",
        f"one that carries machine code, which would run as you ({record.host_code})",
        "your word for it",
        "use `allow_engine_code=True` if you trust whoever built it, or build it again here",
    )


def read_engine(folder: Path, manifest: Manifest, record: EngineRecord) -> bytes:
    """The engine's bytes, when they and the model are those of the record.

    The bytes that were checked are the ones returned: the file cannot change in between.

    Raises:
        ArtifactError: the file is missing or another one, or the artifact's model changed since.
    """
    model, again = manifest.files.get(record.model_name), f"copy it again, or {BUILD_AGAIN}"
    if model != record.model_sha256:
        raise ArtifactError(
            f"engine {record.name}",
            f"{record.model_name} of SHA-256 {model[:16]}..." if model else f"no {record.model_name}",
            f"{record.model_sha256[:16]}..., from which it was built",
            BUILD_AGAIN,
        )
    path = resolve_inside(folder, f"{ENGINES_NAME}/{record.name}{ENGINE_SUFFIX}")
    with reading(path):
        if not path.is_file():
            raise ArtifactError(path, "no such file", "the engine", BUILD_AGAIN)
        size = path.stat().st_size
        if size != record.engine_bytes:
            expected = f"{record.engine_bytes} as its record says"
            raise ArtifactError(path, f"{size} bytes", expected, again)
        data = path.read_bytes()
    got = hashlib.sha256(data).hexdigest()
    if got != record.engine_sha256:
        expected = f"{record.engine_sha256[:16]}... as its record says"
        raise ArtifactError(path, f"SHA-256 {got[:16]}...", expected, again)
    return data
