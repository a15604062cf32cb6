"""OUT/engines: an engine's files are written beside their place and moved there together.

A process that is killed at any moment leaves the old engine with its record or the new one with its own: the
new record lies beside the old one, under its staged name, before the engine is moved, and a reader takes the
record that fits the engine (`engine_record.read_engine_record`). At worst a partial folder stays, which the
next build of that name removes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.artifact.engine_record import (
    engine_path,
    read_engine_record,
    record_path,
    record_text,
    staged_record_path,
)
from reformer_export.artifact.files import output_error
from reformer_export.artifact.folder import lock_folder, remove_abandoned
from reformer_export.artifact.manifest import ENGINES_NAME
from reformer_export.errors import ArtifactError

LAYERS_SUFFIX: Final = ".layers.txt"


@dataclass(frozen=True)
class StagingPaths:
    """Where an engine's files end, and the folder in which they are written first."""

    engine: Path
    record: Path
    staged_record: Path
    layers: Path
    partial: Path

    @property
    def partial_engine(self) -> Path:
        return self.partial / "engine"

    @property
    def partial_record(self) -> Path:
        return self.partial / "record"

    @property
    def partial_layers(self) -> Path:
        return self.partial / "layers"

    @property
    def partial_cache(self) -> Path:
        return self.partial / "cache"

    @property
    def old_engine(self) -> Path:
        return self.partial / "old"


@contextmanager
def staging_paths(out: Path, name: str) -> Iterator[StagingPaths]:
    """Places to write the engine `name` of the artifact `out`; nothing stays there when the block ends.

    OutputError when the disk refuses.
    """
    folder = out / ENGINES_NAME
    existed = folder.exists()
    partial = folder / f".{name}.partial-{secrets.token_hex(4)}"
    engine = engine_path(out, name)
    lock = -1
    try:
        remove_abandoned(folder / name)
        partial.mkdir(parents=True)
        lock = lock_folder(partial)
        yield StagingPaths(
            engine=engine,
            record=record_path(out, name),
            staged_record=staged_record_path(out, name),
            layers=folder / (name + LAYERS_SUFFIX),
            partial=partial,
        )
    except OSError as error:
        raise output_error(engine, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # stays when it has an engine by now


def move_into_place(staging: StagingPaths, timing_cache: Path | None) -> None:
    """Move the files, the record last; whatever stops this before it is there brings the old engine back.

    `timing_cache` is where that file of the build goes, None when there is none.
    """
    _finish_killed_move(staging)
    try:
        if staging.engine.exists():
            _keep(staging.engine, staging.old_engine)
        os.replace(staging.partial_record, staging.staged_record)
        os.replace(staging.partial_engine, staging.engine)
        os.replace(staging.staged_record, staging.record)
    finally:  # not `except`: an interrupt may come between the two
        if staging.partial_record.exists() or staging.staged_record.exists():
            if staging.old_engine.exists():
                os.replace(staging.old_engine, staging.engine)
            elif not staging.partial_engine.exists():
                staging.engine.unlink(missing_ok=True)
            staging.staged_record.unlink(missing_ok=True)
    if staging.partial_layers.is_file():
        os.replace(staging.partial_layers, staging.layers)
    else:
        staging.layers.unlink(missing_ok=True)
    if timing_cache is not None:
        _replace_by_copy(staging.partial_cache, timing_cache)


def _finish_killed_move(staging: StagingPaths) -> None:
    """Give the engine the record that fits it, where a killed build left two."""
    if not staging.staged_record.is_file():
        return
    try:
        fitting = record_text(read_engine_record(staging.record.parent.parent, staging.record.stem))
    except ArtifactError:
        fitting = ""  # there is no engine, or none of the two is its record
    if staging.staged_record.read_text(encoding="utf-8") == fitting:
        os.replace(staging.staged_record, staging.record)
    else:
        staging.staged_record.unlink()


def _keep(engine: Path, old: Path) -> None:
    """A second name for the old engine; a copy where there are no links."""
    try:
        os.link(engine, old)
    except OSError:
        shutil.copyfile(engine, old)


def _replace_by_copy(source: Path, target: Path) -> None:
    """Replace `target`, which may be on another disk, by a copy of `source`."""
    beside = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        shutil.copyfile(source, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
