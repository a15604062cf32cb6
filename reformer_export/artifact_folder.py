"""The folder OUT: written beside its place and renamed into it when it is whole, or never there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reformer_export.artifact import ENGINES_NAME, MANIFEST_NAME, NO_ROOM, output_error, read_manifest
from reformer_export.errors import ArtifactError, OutputError


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` to write into; renamed to `out` when the block ends well, removed otherwise.

    OutputError when `out` exists (and `overwrite` is false) or the disk refuses a write. Whatever ends the
    block, an interrupt included, leaves `out` and its parents as they were.
    """
    out = Path(os.path.abspath(out))
    check_new_folder(out, overwrite)
    partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _move_into_place(partial, out, overwrite)
        missing = []
    except Exception as error:
        refusal = _disk_refusal(error)
        if refusal is None:
            raise
        raise output_error(out, refusal) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:  # innermost first; one that another program has filled stays
            with suppress(OSError):
                parent.rmdir()


def _disk_refusal(error: BaseException) -> OSError | None:
    """The system's refusal to write that `error` is, or that a library wrapped into it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    cause = error.__cause__ or error.__context__
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in NO_ROOM):
        cause = cause.__cause__ or cause.__context__
    return cause


def check_new_folder(out: Path, overwrite: bool) -> None:
    """OutputError unless `out` is free, or an artifact (or empty folder) that `overwrite` may replace."""
    try:
        exists = out.exists() or out.is_symlink()
        problem = _reason_to_keep(out) if exists and overwrite else None
    except OSError as error:
        raise output_error(out, error) from error
    if exists and not overwrite:
        raise OutputError(
            f"OUT: got {out}, which exists, expected a new folder; use --overwrite or another OUT"
        )
    if problem is not None:
        raise OutputError(
            f"OUT: got {out}, which {problem}, expected an artifact to overwrite; choose another OUT"
        )


def _reason_to_keep(out: Path) -> str | None:
    """Why `out` must not be replaced: it is no artifact, or holds files that no export wrote."""
    if out.is_symlink() or not out.is_dir():
        return "is no artifact's folder"
    present = {path.name for path in out.iterdir()}
    if not present:
        return None
    try:
        files = read_manifest(out).files
    except ArtifactError:
        return f"has no {MANIFEST_NAME} that this version wrote"
    others = sorted(present - {MANIFEST_NAME, ENGINES_NAME, *(Path(name).parts[0] for name in files)})
    return f"also holds {', '.join(others[:3])}" if others else None


def _move_into_place(partial: Path, out: Path, overwrite: bool) -> None:
    check_new_folder(out, overwrite)
    if not out.exists():
        partial.rename(out)
        return
    old = out.parent / f".{out.name}.old-{secrets.token_hex(4)}"
    try:
        out.rename(old)
        partial.rename(out)
    finally:  # not `except`: an interrupt may come between the two
        if not partial.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(out)
