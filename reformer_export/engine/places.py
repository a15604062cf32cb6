"""OUT/engines: an engine's files are written beside their place and moved there together.

A process that is killed at any moment leaves the old engine with its record or the new one with its own: the
new record lies beside the old one, under its coming name, before the engine is moved, and a reader takes the
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

from reformer_export.artifact import ENGINES_NAME, output_error
from reformer_export.artifact_folder import lock_folder, remove_abandoned
from reformer_export.engine_record import (
    coming_record_path,
    engine_path,
    read_engine_record,
    record_path,
    record_text,
)
from reformer_export.errors import ArtifactError

LAYERS_SUFFIX: Final = ".layers.txt"


@dataclass(frozen=True)
class EnginePlaces:
    """Where an engine's files end, and the folder in which they are written first."""

    engine: Path
    record: Path
    coming_record: Path
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
def new_files(out: Path, name: str) -> Iterator[EnginePlaces]:
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
        yield EnginePlaces(
            engine=engine,
            record=record_path(out, name),
            coming_record=coming_record_path(out, name),
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


def move_into_place(places: EnginePlaces, timing_cache: Path | None) -> None:
    """Move the files, the record last; whatever stops this before it is there brings the old engine back.

    `timing_cache` is where that file of the build goes, None when there is none.
    """
    _finish_killed_move(places)
    try:
        if places.engine.exists():
            _keep(places.engine, places.old_engine)
        os.replace(places.partial_record, places.coming_record)
        os.replace(places.partial_engine, places.engine)
        os.replace(places.coming_record, places.record)
    finally:  # not `except`: an interrupt may come between the two
        if places.partial_record.exists() or places.coming_record.exists():
            if places.old_engine.exists():
                os.replace(places.old_engine, places.engine)
            elif not places.partial_engine.exists():
                places.engine.unlink(missing_ok=True)
            places.coming_record.unlink(missing_ok=True)
    if places.partial_layers.is_file():
        os.replace(places.partial_layers, places.layers)
    else:
        places.layers.unlink(missing_ok=True)
    if timing_cache is not None:
        _replace_by_copy(places.partial_cache, timing_cache)


def _finish_killed_move(places: EnginePlaces) -> None:
    """Give the engine the record that fits it, where a killed build left two."""
    if not places.coming_record.is_file():
        return
    try:
        fitting = record_text(read_engine_record(places.record.parent.parent, places.record.stem))
    except ArtifactError:
        fitting = ""  # there is no engine, or none of the two is its record
    if places.coming_record.read_text(encoding="utf-8") == fitting:
        os.replace(places.coming_record, places.record)
    else:
        places.coming_record.unlink()


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
