"""The folder OUT: written beside its place and renamed into it when it is whole, or never there.

A process that is killed at any moment leaves the old folder or the new one (where the system can exchange two
folders in one step: Linux), and at worst a partial one beside it, which the next export to that OUT removes.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from reformer_export.artifact.files import NO_ROOM, is_torn, output_error, try_lock
from reformer_export.artifact.manifest import ENGINES_NAME, MANIFEST_NAME, read_manifest
from reformer_export.errors import ArtifactError, OutputError

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What a kernel or a file system says that cannot exchange two names (man 2 rename)."""

ABANDONED_SECONDS: Final = 60
"""A partial folder younger than this may belong to a process that has not locked it yet."""


@contextmanager
def new_folder(
    out: Path,
    overwrite: bool,
    reason_to_keep: Callable[[Path], str | None] | None = None,
    name: str = "OUT",
) -> Iterator[Path]:
    """A folder beside `out` to write into; renamed to `out` when the block ends well, removed otherwise.

    OutputError when `out` exists (and `overwrite` is false) or the disk refuses a write. `reason_to_keep`
    says why a folder must not be overwritten, None for no reason; by default, that it is no artifact.
    `name` is what a user calls it. Whatever ends the block, an interrupt included, leaves `out` and its
    parents as they were.
    """
    check_new_folder(out, overwrite, reason_to_keep, name)
    out = Path(os.path.abspath(out))
    with partial_folder(out) as partial:
        yield partial
        check_new_folder(out, overwrite, reason_to_keep, name)
        _move_into_place(partial, out)


@contextmanager
def partial_folder(out: Path, suffix: str = "") -> Iterator[Path]:
    """A new folder beside `out`, gone when the block ends unless it was renamed by then.

    Its parents are made, and those that are still empty are removed again. Folders of this kind that killed
    processes left there for `out` are removed. OutputError, which names `out` with `suffix`, when the disk
    refuses a write.
    """
    partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    missing = [parent for parent in out.parents if not parent.exists()]
    lock = -1
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        partial.mkdir()
        lock = _lock_folder(partial)
        yield partial
    except Exception as error:
        refusal = _disk_refusal(error)
        if refusal is None:
            raise
        raise output_error(out.parent / (out.name + suffix), refusal) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        for parent in missing:  # innermost first; one with something in it stays
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


def check_new_folder(
    out: Path,
    overwrite: bool,
    reason_to_keep: Callable[[Path], str | None] | None = None,
    name: str = "OUT",
) -> None:
    """OutputError unless `out` is free, or an artifact (or empty folder) that `overwrite` may replace."""
    if out.parts[:1] == ("~",) and not Path("~").exists():
        fix = "write the home folder out: only a shell does it by itself, and not in quotes"
        raise OutputError(name, f"{out}, whose ~ nobody has replaced", "a path", fix)
    try:
        exists = out.exists() or out.is_symlink()
        problem = (reason_to_keep or _reason_to_keep)(out) if exists and overwrite else None
    except OSError as error:
        raise output_error(out, error) from error
    if exists and not overwrite:
        fix = f"use `overwrite=True` or another {name}"
        raise OutputError(name, f"{out}, which exists", "a new folder", fix)
    if problem is not None:
        expected = "an artifact to overwrite" if name == "OUT" else "one that this package wrote"
        raise OutputError(name, f"{out}, which {problem}", expected, f"choose another {name}")


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
    known = {MANIFEST_NAME, ENGINES_NAME, *(Path(name).parts[0] for name in files)}
    others = sorted(name for name in present - known if not is_torn(name, MANIFEST_NAME))
    return f"also holds {', '.join(others[:3])}" if others else None


def _move_into_place(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    if _exchange(partial, out):
        return  # the old one now has the partial one's name, and goes with it
    old = out.parent / f".{out.name}.old-{secrets.token_hex(4)}"
    try:
        out.rename(old)
        partial.rename(out)
    finally:  # not `except`: an interrupt may come between the two
        if not partial.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(out)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change their folders in one step; False where the system cannot."""
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "renameat2"):
        return False
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))


def _lock_folder(folder: Path) -> int:
    """A descriptor whose lock says that a process writes `folder`; -1 where there are no such locks."""
    if sys.platform == "win32":  # which opens no folders
        return -1
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return -1


def _remove_abandoned(out: Path) -> None:
    """Remove partial folders of `out` whose process was killed: old enough, and nobody holds their lock."""
    for partial in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime < ABANDONED_SECONDS:
                continue
            lock = _lock_folder(partial)
            if lock >= 0:
                shutil.rmtree(partial, ignore_errors=True)
                os.close(lock)
