"""An artifact -> a model repository that a stock Triton Inference Server opens."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reformer_export import __version__
from reformer_export.artifact.files import reading, sha256_of_file
from reformer_export.artifact.folder import check_new_folder, new_folder
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import ArtifactError
from reformer_export.runtimes.options import options_from_fields
from reformer_export.serving.triton.options import TritonRequest
from reformer_export.serving.triton.plan import PlannedFile, RepositoryPlan, plan_repository
from reformer_export.serving.triton.readme import readme_text
from reformer_export.serving.triton.record import (
    README_NAME,
    RECORD_NAME,
    LibraryRecord,
    RepositoryRecord,
    read_repository_record,
    record_text,
)
from reformer_export.workflows.progress import Progress, Say, say_nothing, show_no_progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from reformer_export.serving.triton.options import TritonFields

PLACE: Final = "REPOSITORY"
"""What a user calls the folder."""

MEGABYTE: Final = 10**6
BLOCK: Final = 2**20


@dataclass(frozen=True)
class TritonRepository:
    """A repository that was written: its folder, its record, and what a user should know."""

    folder: Path
    record: RepositoryRecord
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files but the record; those that two models share count for each."""
        return sum((self.folder / path).stat().st_size for path in self.record.files)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"folder": str(self.folder), "notes": list(self.notes), **self.record.to_dict()}


def write_triton_repository(
    out: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    request: TritonRequest | None = None,
    *,
    say: Say = say_nothing,
    progress: Progress = show_no_progress,
    **fields: Unpack[TritonFields],
) -> TritonRepository:
    """Write a model repository for the artifact `out` into the folder `repository`, which appears when it is
    whole.

    Args:
        out: the artifact's folder, or its hub id.
        repository: the new folder.
        request: how Triton shall serve it.
        say: is told what a user should know, a line each.
        progress: is told how many megabytes were copied.
        fields: in place of `request`, fields of it.

    Raises:
        InputError: an option does not fit the artifact.
        ArtifactError: the artifact, or an engine of it, is missing, broken or changed.
        OutputError: `repository` exists, or the disk refuses; nothing was changed.
        RuntimeUnavailableError: the operator library is asked for and there is none, or it does not fit.
    """
    request = options_from_fields(TritonRequest, request, fields)
    artifact = locate_artifact(out, with_engines=request.runtime_options().is_engine)
    target = Path(os.path.abspath(repository))
    check_new_folder(Path(repository), request.overwrite, _reason_to_keep, PLACE)
    manifest = read_manifest(artifact)
    plan = plan_repository(artifact, target, manifest, request, __version__)
    for note in plan.notes:
        say(f"Note: {note}")
    with new_folder(target, request.overwrite, _reason_to_keep, PLACE) as folder:
        files = _write_files(folder, plan, progress)
        readme = PlannedFile(README_NAME, text=readme_text(manifest, request, plan, target))
        files[README_NAME] = _write_text(folder, readme)
        record = _make_record(request, plan, files)
        (folder / RECORD_NAME).write_text(record_text(record), encoding="utf-8")
    return TritonRepository(target, record, plan.notes)


def _make_record(request: TritonRequest, plan: RepositoryPlan, files: dict[str, str]) -> RepositoryRecord:
    library = None
    if plan.library is not None and plan.library_path is not None:
        library = LibraryRecord(plan.library_path, plan.library.version, plan.library.abi_version)
    options = dataclasses.asdict(request)
    del options["overwrite"]
    return RepositoryRecord(
        options=options,
        models=tuple(plan.configs),
        manifest=plan.manifest,
        files=files,
        tool_version=__version__,
        library=library,
        engine=plan.engines[0].name if plan.engine_record is not None else request.engine,
        engine_record=plan.engine_record,
    )


def _write_files(folder: Path, plan: RepositoryPlan, progress: Progress) -> dict[str, str]:
    """The SHA-256 of every file by its path; the same source is copied once, and then linked to."""
    copied: dict[Path, PlannedFile] = {}
    files: dict[str, str] = {}
    sources = {file.source: file.size for file in plan.files if file.source is not None}
    with progress("Megabytes copied", -(-sum(sources.values()) // MEGABYTE)) as advance:
        count = _count_megabytes(advance)
        for file in plan.files:
            if file.source is None:
                files[file.path] = _write_text(folder, file)
            elif file.source in copied and _link(folder / copied[file.source].path, folder / file.path):
                files[file.path] = files[copied[file.source].path]
            else:
                files[file.path] = _copy(file, file.source, folder / file.path, count)
                copied[file.source] = file
    return files


def _count_megabytes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Of a function that takes megabytes, one that takes bytes."""
    rest = 0

    def count(size: int) -> None:
        nonlocal rest
        whole, rest = divmod(rest + size, MEGABYTE)
        if whole:
            advance(whole)

    return count


def _write_text(folder: Path, file: PlannedFile) -> str:
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text, encoding="utf-8")
    return sha256_of_file(path)


def _link(source: Path, target: Path) -> bool:
    """Give the file `source` a second name; False where the file system has no such links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _copy(file: PlannedFile, source: Path, target: Path, count: Callable[[int], None]) -> str:
    """Copy a file and compare what was read with its SHA-256, which is returned."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with reading(source):
        stream = source.open("rb")
    with stream, target.open("xb") as copy:
        while True:
            with reading(source):
                block = stream.read(BLOCK)
            if not block:
                break
            digest.update(block)
            copy.write(block)
            count(len(block))
    got = digest.hexdigest()
    if file.sha256 is not None and got != file.sha256:
        expected = f"{file.sha256[:16]}... as it was written"
        fix = "the file changed after the export, export the checkpoint or build the engine again"
        raise ArtifactError(source, f"SHA-256 {got[:16]}...", expected, fix)
    return got


def _reason_to_keep(folder: Path) -> str | None:
    """Why a folder must not be replaced: it is no repository of ours, or holds what we did not write."""
    if folder.is_symlink() or not folder.is_dir():
        return "is no folder"
    present = {path.name for path in folder.iterdir()}
    if not present:
        return None
    try:
        record = read_repository_record(folder)
    except ArtifactError:
        return f"has no {RECORD_NAME} that this version wrote"
    others = sorted(present - {RECORD_NAME, README_NAME, *record.models})
    return f"also holds {', '.join(others[:3])}" if others else None
