"""OUT/engines: an engine's files are written beside their place and moved there together.

A process that is killed at any moment leaves the old engine with its record or the new one with its own: the
new record lies beside the old one, under its staged name, before the engine is moved, and a reader takes the
record that fits the engine (`engine_record.read_engine_record`). At worst a partial folder stays, which the
next build of that name removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.artifact.engine_record import (
    ENGINE_SUFFIX,
    engine_path,
    read_engine_record,
    record_path,
    record_text,
    staged_record_path,
)
from reformer_export.artifact.files import replace_file
from reformer_export.artifact.folder import partial_folder
from reformer_export.artifact.manifest import ENGINES_NAME
from reformer_export.errors import ArtifactError

LAYERS_SUFFIX: Final = ".layers.txt"


@dataclass(frozen=True)
class StagingPaths:
    """Where an engine's files end, and in a folder of the same disk, where they are written first."""

    engine: Path
    record: Path
    staged_record: Path
    layers: Path
    partial_engine: Path
    partial_record: Path
    partial_layers: Path
    partial_cache: Path
    old_engine: Path


@contextmanager
def staging_paths(out: Path, name: str) -> Iterator[StagingPaths]:
    """Paths to write the engine `name` of the artifact `out`; nothing stays there when the block ends.

    OutputError when the disk refuses.
    """
    folder = out / ENGINES_NAME
    with partial_folder(folder / name, ENGINE_SUFFIX) as partial:
        yield StagingPaths(
            engine_path(out, name),
            record_path(out, name),
            staged_record_path(out, name),
            folder / (name + LAYERS_SUFFIX),
            *(partial / file for file in ("engine", "record", "layers", "cache", "old")),
        )


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
        with replace_file(timing_cache) as stream:  # it may be on another disk
            stream.write(staging.partial_cache.read_bytes())


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
