"""What is in a Triton model repository of ours: its files, and its configurations against the artifact.

Nothing is run or loaded: a repository may come from elsewhere, and so may the library in it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.engine_record import EngineRecord, read_record_file
from reformer_export.artifact.files import read_text, reading, resolve_inside, sha256_of_file
from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.errors import ReformerExportError
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.report.inspection_tables import FILES
from reformer_export.report.page import Page, Section, Verdict
from reformer_export.report.tables import Table, engine_table, make_facts, make_table
from reformer_export.runtimes.inspection import FileState
from reformer_export.serving.triton.config import (
    generate_config,
    onnxruntime_config,
    python_config,
    tensorrt_config,
)
from reformer_export.serving.triton.readme import start_command
from reformer_export.serving.triton.record import (
    CONFIG_NAME,
    README_NAME,
    RECORD_NAME,
    RepositoryRecord,
    read_repository_record,
)
from reformer_export.serving.triton.text_format import message_from_text, text_from_message

EDITED: Final = "edited"
"""The state of a file that a user may change, and has."""

FIXED: Final = ("name", "backend", "default_model_filename", "input", "output", "model_transaction_policy")
"""Fields of a configuration that say what the model is."""

Fields = dict[str, list[Any]]


@dataclass(frozen=True)
class RepositorySummary:
    """A repository's record, the state of its files, and what is wrong with them, a sentence each.

    `manifest` and `engine` are the served artifact's; None where they cannot be read, or there is none.
    """

    folder: str
    record: RepositoryRecord
    files: tuple[FileState, ...]
    problems: tuple[str, ...]
    manifest: Manifest | None
    engine: EngineRecord | None

    @property
    def problem(self) -> str:
        """All that is wrong in one line; "" where nothing is."""
        if not self.problems:
            return ""
        fix = "write the repository again with `reformer-export triton OUT REPOSITORY --overwrite`"
        return f"got {'; '.join(self.problems)}, expected a repository as it was written; {fix}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": "triton-repository",
            "folder": self.folder,
            "record": self.record.to_dict(),
            "files": [dataclasses.asdict(file) for file in self.files],
            "problems": list(self.problems),
            "manifest": None if self.manifest is None else self.manifest.to_dict(),
            "engine": None if self.engine is None else self.engine.to_dict(),
        }

    def tables(self) -> list[Table]:
        """All that is told of it."""
        files = make_table("Files, compared with their SHA-256", FILES, self.files)
        return [make_facts(f"Triton repository {self.folder}", self._facts()), *self._engine_tables(), files]

    def page(self) -> Page:
        """The same as a page."""
        facts = make_facts("Repository", self._facts())
        sections = [
            Section("repository", "Repository", tables=[facts, *self._engine_tables()]),
            Section("files", "Files", tables=[make_table("Files", FILES, self.files)]),
            *([] if self.manifest is None else [Section("manifest", "Manifest", manifest=self.manifest)]),
        ]
        verdict = Verdict(
            True, "As it was written", "Every file is whole, and every model fits the artifact."
        )
        if self.problems:
            verdict = Verdict(False, "Not as it was written", f"{'; '.join(self.problems)}.")
        return Page(f"What is in {self.folder}", sections, verdict)

    def _facts(self) -> Iterator[tuple[str, str]]:
        request = self.record.request
        yield "backend", request.backend
        yield "models", ", ".join(self.record.models)
        if self.manifest is not None:
            manifest = self.manifest
            yield "artifact", f"{manifest.spec.task}, {manifest.precision}, {manifest.describe_sizes()}"
        if self.record.library is not None:
            library = self.record.library
            yield "operator library", f"{library.path}, {library.version} (ABI {library.abi_version})"
        if request.backend == "python":
            yield "runtime", request.chosen_runtime
        yield "start", start_command(request, Path(self.folder))
        yield "written by", f"reformer-export {self.record.tool_version}"
        yield "problems", "; ".join(self.problems) or "none"

    def _engine_tables(self) -> list[Table]:
        return [] if self.engine is None else [engine_table(f"Engine {self.engine.name}", self.engine)]


def inspect_repository(path: str | os.PathLike[str]) -> RepositorySummary:
    """The repository in the folder `path`, or of which that is the record; ArtifactError for a record that is
    missing or broken."""
    folder = Path(path)
    folder = folder.parent if folder.name == RECORD_NAME else folder
    record = read_repository_record(folder)
    states = {name: _examine_file(folder, name, sha256) for name, sha256 in record.files.items()}
    problems = [f"{name} {file.state}" for name, file in states.items() if file.state not in ("ok", EDITED)]
    manifest: Manifest | None = None
    engine: EngineRecord | None = None
    try:
        manifest = read_manifest(resolve_inside(folder, record.manifest).parent)
        if record.engine_record is not None and record.engine is not None:
            engine = read_record_file(resolve_inside(folder, record.engine_record), record.engine)
        for name, expected in _expected_configs(record, manifest, engine).items():
            problems += _check_config(folder, name, expected)
    except ReformerExportError as error:
        problems.append(str(error))
    if record.library is not None and record.library.abi_version != ABI_VERSION:
        problems.append(
            f"{record.library.path} of ABI version {record.library.abi_version}, where this version needs "
            f"{ABI_VERSION}"
        )
    return RepositorySummary(str(folder), record, tuple(states.values()), tuple(problems), manifest, engine)


def _examine_file(folder: Path, name: str, sha256: str) -> FileState:
    path = resolve_inside(folder, name)
    with reading(path):
        if not path.is_file():
            return FileState(name, None, "missing")
        size = path.stat().st_size
        if sha256_of_file(path) == sha256:
            return FileState(name, size, "ok")
    may_change = Path(name).name in (CONFIG_NAME, README_NAME)
    return FileState(name, size, EDITED if may_change else "changed")


def _expected_configs(
    record: RepositoryRecord, manifest: Manifest, engine: EngineRecord | None
) -> dict[str, Fields]:
    """What was written of each model, as it is read."""
    request = record.request
    if request.backend == "python":
        configs = [python_config(manifest, request)]
        configs += [generate_config(request)] if len(record.models) > 1 else []
    elif engine is not None:
        configs = [tensorrt_config(manifest, request, engine)]
    else:
        library = None if record.library is None else f"/{record.library.path}"
        configs = [onnxruntime_config(manifest, request, library)]
    return {each["name"]: message_from_text(each["name"], text_from_message(each)) for each in configs}


def _check_config(folder: Path, name: str, expected: Fields) -> Iterator[str]:
    """What contradicts the artifact in a model's configuration, where there is one."""
    path = resolve_inside(folder, f"{name}/{CONFIG_NAME}")
    if path.is_file():  # else it is told with the files
        yield from find_contradictions(f"{name}/{CONFIG_NAME}", read_text(str(path), path), expected)


def find_contradictions(place: str, text: str, expected: Fields) -> Iterator[str]:
    """What `text`, a model's configuration, says otherwise than `expected`, a part of a sentence each that
    begins with `place`; ArtifactError where it is none."""
    found = message_from_text(place, text)
    for field in FIXED:
        if _by_name(found.get(field, [])) != _by_name(expected.get(field, [])):
            yield f"{place} with another {field} than the artifact's"
    rows, most = (_first(message, "max_batch_size", 0) for message in (found, expected))
    is_too_many = not isinstance(rows, int) or (_first(expected, "backend", "") == "tensorrt" and rows > most)
    if is_too_many or (rows == 0) != (most == 0):
        yield f"{place} with max_batch_size {rows}, where {most} was written"
    library = _first(_first(expected, "model_operations", {}), "op_library_filename", None)
    if library is not None:
        named = _first(_first(found, "model_operations", {}), "op_library_filename", "none")
        if not str(named).endswith(library):
            yield f"{place} with the operator library {named}, where one ending in {library} was written"
    wanted, given = _use_tf32(expected), _use_tf32(found)
    if wanted is not None and wanted != given:
        yield f"{place} with use_tf32 {given or 'not given'}, where {wanted} was written"


def _by_name(values: list[Any]) -> Any:
    """Messages with names in any order, other values as they are."""
    return sorted(values, key=str)


def _all(message: Any, field: str) -> list[Any]:
    """The values of a field of what should be a message."""
    values: list[Any] = message.get(field, []) if isinstance(message, dict) else []
    return values


def _first(message: Any, field: str, default: Any) -> Any:
    return next(iter(_all(message, field)), default)


def _use_tf32(message: Fields) -> str | None:
    accelerators = _first(_first(message, "optimization", {}), "execution_accelerators", {})
    for accelerator in _all(accelerators, "gpu_execution_accelerator"):
        for parameter in _all(accelerator, "parameters"):
            if _first(parameter, "key", "") == "use_tf32":
                return str(_first(parameter, "value", ""))
    return None
