"""Whether an engine's file is still what its record says, and built from the model beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reformer_export.artifact.engine_record import (
    ENGINE_SUFFIX,
    RECORD_SUFFIX,
    EngineRecord,
    engine_path,
    list_engines,
    read_engine_record,
)
from reformer_export.artifact.files import reading, sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME
from reformer_export.errors import ArtifactError, ReformerExportError


@dataclass(frozen=True)
class EngineState:
    """An engine's record and the state of the file beside it."""

    record: EngineRecord
    state: Literal["ok", "changed", "missing", "of another model.onnx", "of another decode.onnx"]

    @property
    def name(self) -> str:
        return self.record.name

    def to_dict(self) -> dict[str, Any]:
        """JSON values of the engine by itself."""
        return {
            "kind": "engine",
            "record": self.record.to_dict(),
            "state": self.state,
            "host_code": self.record.host_code,
        }

    def entry(self) -> dict[str, Any]:
        """JSON values of the engine in its artifact's list."""
        return {
            "name": self.name,
            "state": self.state,
            "host_code": self.record.host_code,
            "record": dataclasses.asdict(self.record),
        }


@dataclass(frozen=True)
class UnusableEngine:
    """An engine whose record cannot be read; `problem` says why."""

    name: str
    state: Literal["unusable"]
    problem: str

    def entry(self) -> dict[str, Any]:
        """JSON values of the engine in its artifact's list."""
        return dataclasses.asdict(self)


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
            str(path),
            got=f"an engine outside of a folder named {ENGINES_NAME}",
            expected=f"OUT/{ENGINES_NAME}/NAME{ENGINE_SUFFIX} with its record beside it",
            fix="move both back",
        )
    return examine_engine(folder.parent, path.stem)


def examine_engine(out: Path, name: str) -> EngineState:
    """The engine `name` of the artifact `out`; the errors of `read_engine_record`."""
    record = read_engine_record(out, name)
    path, model = engine_path(out, name), out / record.model_name
    with reading(path):
        if not path.is_file():
            return EngineState(record, "missing")
        if path.stat().st_size != record.engine_bytes or sha256_of_file(path) != record.engine_sha256:
            return EngineState(record, "changed")
    with reading(model):
        if model.is_file() and sha256_of_file(model) != record.model_sha256:
            return EngineState(
                record, "of another decode.onnx" if record.decodes else "of another model.onnx"
            )
    return EngineState(record, "ok")


def examine_engines(out: Path) -> tuple[EngineState | UnusableEngine, ...]:
    """Every engine of the artifact `out`, by name."""
    states: list[EngineState | UnusableEngine] = []
    for name in list_engines(out):
        try:
            states.append(examine_engine(out, name))
        except ReformerExportError as error:
            states.append(UnusableEngine(name, "unusable", str(error)))
    return tuple(states)
