"""Engines in words, for `engine` and `inspect`: what their records say, and whether the files still fit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer_export.artifact.engine_record import (
    ENGINE_SUFFIX,
    RECORD_SUFFIX,
    EngineRecord,
    engine_path,
    list_engines,
    read_engine_record,
)
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME, MODEL_NAME
from reformer_export.errors import ArtifactError, ReformerExportError

ENGINE_COLUMNS = ("engine", "runtime", "compute capabilities", "longest", "size", "state")


@dataclass(frozen=True)
class EngineState:
    """An engine's record and the `state` of its file: ok, changed, missing, or built from another model."""

    record: EngineRecord
    state: str


def is_engine_path(path: Path) -> bool:
    """Whether `path` names an engine or its record, by its name alone."""
    return path.suffix == ENGINE_SUFFIX or (
        path.suffix == RECORD_SUFFIX and path.absolute().parent.name == ENGINES_NAME
    )


def inspect_engine(path: Path) -> EngineState:
    """The engine of which `path` is the file or the record; ArtifactError when it lies in no artifact's
    folder `engines`, or its record is missing or broken."""
    folder = path.absolute().parent
    if folder.name != ENGINES_NAME:
        raise ArtifactError(
            f"{path}: got an engine outside of a folder named {ENGINES_NAME}, expected OUT/{ENGINES_NAME}/"
            f"NAME{ENGINE_SUFFIX} with its record beside it; move both back"
        )
    return examine_engine(folder.parent, path.stem)


def examine_engine(out: Path, name: str) -> EngineState:
    """The engine `name` of the artifact `out`; the errors of `read_engine_record`."""
    record = read_engine_record(out, name)
    path = engine_path(out, name)
    if not path.is_file():
        return EngineState(record, "missing")
    if path.stat().st_size != record.engine_bytes or sha256_of_file(path) != record.engine_sha256:
        return EngineState(record, "changed")
    model = out / MODEL_NAME
    if model.is_file() and sha256_of_file(model) != record.model_sha256:
        return EngineState(record, "of another model.onnx")
    return EngineState(record, "ok")


def report_engine(engine: EngineState) -> dict[str, Any]:
    """Plain JSON values."""
    return {"kind": "engine", "record": engine.record.to_dict(), "state": engine.state}


def list_engine_states(out: Path) -> list[EngineState | tuple[str, str]]:
    """Every engine of an artifact; (name, problem) where its record cannot be read."""
    states: list[EngineState | tuple[str, str]] = []
    for name in list_engines(out):
        try:
            states.append(examine_engine(out, name))
        except ReformerExportError as error:
            states.append((name, str(error)))
    return states


def engine_row(engine: EngineState | tuple[str, str]) -> tuple[str, ...]:
    """The engine as a row under `ENGINE_COLUMNS`."""
    if isinstance(engine, tuple):
        name, problem = engine
        return (name, "", "", "", "", f"unusable: {problem}")
    record = engine.record
    longest = max(profile.maximum[1] for profile in record.profiles)
    return (
        record.name,
        f"{record.runtime} {record.runtime_version}",
        ", ".join(record.compute_capabilities),
        f"{longest} tokens",
        f"{record.engine_bytes:,} B",
        engine.state,
    )


def engine_values(engine: EngineState | tuple[str, str]) -> dict[str, Any]:
    """The engine in an artifact's JSON."""
    if isinstance(engine, tuple):
        return {"name": engine[0], "state": "unusable", "problem": engine[1]}
    return {"name": engine.record.name, "state": engine.state, "record": dataclasses.asdict(engine.record)}


def describe_engine(record: EngineRecord) -> list[tuple[str, str]]:
    """The record in words, for a table."""
    flags = {
        "weights can be exchanged": record.flags.refit,
        "weights left out": record.flags.stripped,
        "loads in newer TensorRT versions": record.flags.version_compatible,
        "runs on every GPU from Ampere on": record.flags.hardware_compatible,
        "float32 products in TF32": record.flags.tf32,
    }
    plugin = record.plugin
    carried = "in the engine" if plugin.embedded else "loaded beside it"
    layers = ", ".join(f"{count} {name}" for name, count in record.plugin_layers.items())
    return [
        ("runtime", f"{record.runtime} {record.runtime_version}"),
        ("compute capabilities", ", ".join(record.compute_capabilities)),
        ("dtype", record.dtype),
        *(
            (f"profile {index}: min / opt / max", str(profile))
            for index, profile in enumerate(record.profiles)
        ),
        ("plugin layers", layers or "none"),
        (
            "plugin library",
            f"{plugin.file_name} {plugin.version} (ABI {plugin.abi_version}), {carried}",
        ),
        ("built with", ", ".join(words for words, value in flags.items() if value) or "no special options"),
        ("size", f"{record.engine_bytes:,} B"),
        ("built in", f"{record.build_seconds:.1f} s by reformer-export {record.tool_version}"),
    ]
