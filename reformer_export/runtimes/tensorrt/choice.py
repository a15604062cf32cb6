"""Which of an artifact's engines a runtime opens: that of whole passes, or that of decode.onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reformer_export.artifact.engine_record import (
    EngineRecord,
    EngineRuntime,
    list_engines,
    read_engine_record,
)
from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import ArtifactError, InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.preflight import (
    check_host_code,
    check_machine,
    check_num_hashes,
    choose_engine,
)


@dataclass(frozen=True)
class EngineChoice:
    """`first` is to be opened at once; `passes` takes sequences whole, None where no engine here does that,
    for the reason `no_passes`; `notes`: what to know of the first, a sentence each."""

    first: EngineRecord
    passes: EngineRecord | None
    no_passes: ReformerExportError | None
    notes: tuple[str, ...]


def choose_engines(
    folder: Path, manifest: Manifest, options: RuntimeOptions, machine: Machine
) -> EngineChoice:
    """The engine of whole passes first; or, to be open for "generate", that of decode.onnx, where there is
    one that runs here.

    Raises:
        ReformerExportError: nothing of the kind runs here; that of `choose_engine` and the checks.
    """
    passes, no_passes, notes = None, None, []
    try:
        record = choose_engine(folder, cast(EngineRuntime, options.runtime), options.engine, machine)
        check_host_code(record, options.allow_engine_code)
        check_num_hashes(record, manifest, options.num_hashes)
        notes = check_machine(record, machine)
        passes = record
    except ReformerExportError as error:
        no_passes = error
    named = {options.engine, f"{options.engine}-decode"}
    is_there = options.engine is None or not named.isdisjoint(list_engines(folder))
    if options.open_for == "generate" and manifest.decode is not None and is_there:
        try:
            first = find_decoding_engine(folder, options, machine, passes)
            return EngineChoice(first, passes, no_passes, tuple(check_machine(first, machine)))
        except InputError:
            if passes is None and _names_decoding_engine(folder, options):
                raise
    if no_passes is not None:
        raise no_passes
    return EngineChoice(record, passes, None, tuple(notes))


def find_decoding_engine(
    folder: Path, options: RuntimeOptions, machine: Machine, passes: EngineRecord | None
) -> EngineRecord:
    """The engine of decode.onnx that the options name; that called NAME-decode beside NAME, which is `passes`
    or the one they name; or the only one that fits.

    InputError where there is none to run here.
    """
    if passes is None and _names_decoding_engine(folder, options):
        name = options.engine
    else:
        beside = f"{options.engine if passes is None else passes.name}-decode"
        name = beside if beside in list_engines(folder) else None
    try:
        record = choose_engine(folder, cast(EngineRuntime, options.runtime), name, machine, decode=True)
        check_machine(record, machine)
    except (ArtifactError, RuntimeUnavailableError) as error:
        raise InputError("decoding", error.got, error.expected, error.fix) from error
    check_host_code(record, options.allow_engine_code)
    return record


def _names_decoding_engine(folder: Path, options: RuntimeOptions) -> bool:
    name = options.engine
    return name in list_engines(folder) and read_engine_record(folder, str(name)).decodes
