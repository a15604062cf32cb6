"""Libraries that `reformer-export build-library` built on this machine, in the user's cache.

    CACHE/reformer-export/libraries/VERSION-SOURCES/OPTIONS/record.json, libreformer_*.so

VERSION is the package's, SOURCES and OPTIONS are hashes of the sources and of what was asked for: another
package, or a change of a source, never finds an older build. A folder is whole or not there. What is in it is
compared with its record before it is loaded, and nothing is taken from a folder that others may write to.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export import __version__
from reformer_export.artifact.files import JsonFile, sha256_of_file
from reformer_export.errors import ReformerExportError, RuntimeUnavailableError, reason_of
from reformer_export.libraries.sources import find_sources, hash_sources

RECORD_NAME: Final = "record.json"
RECORD_VERSION: Final = 1

_RECORD: Final = JsonFile(
    "a build's record",
    "delete its folder, then build again with `reformer-export build-library`",
    error=RuntimeUnavailableError,
)
_DIGITS: Final = 16
_OTHERS_WRITE: Final = 0o022


@dataclass(frozen=True)
class BuiltFile:
    """A library's SHA-256 (hex) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BuildRecord:
    """What was built: `files` by name; `architectures` of the CUDA kernels, none where there are none;
    `built` when, in seconds since 1970; `seconds` it took."""

    record_version: int
    version: str
    sources_sha256: str
    platform: str
    architectures: tuple[int, ...]
    tensorrt: bool
    built: float
    seconds: float
    files: dict[str, BuiltFile]


def cache_folder() -> Path | None:
    """This package's folder in the user's cache, whether or not it is there; None for a user without a home.

    As the XDG base directory specification has it: $XDG_CACHE_HOME where it is absolute, else ~/.cache.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "reformer-export"


def builds_folder() -> Path | None:
    """Where builds of this package's sources are, whether or not there is one; None as for `cache_folder`."""
    cache = cache_folder()
    if cache is None:
        return None
    sources = hash_sources(find_sources())
    return cache / "libraries" / f"{__version__}-{sources[:_DIGITS]}"


def find_built_library(name: str) -> Path | None:
    """The library in the newest build that has a file `name`, with CUDA kernels before without; None without
    one.

    Raises:
        RuntimeUnavailableError: that file is not what was built.
    """
    found = [(folder, record) for folder, record in _read_builds() if name in record.files]
    if not found:
        return None
    folder, record = max(found, key=lambda build: (bool(build[1].architectures), build[1].built))
    check_built_file(folder / name, record.files[name])
    return folder / name


def read_record(folder: Path) -> BuildRecord:
    """What the build in the folder says of itself; RuntimeUnavailableError when it says nothing sensible."""
    path = folder / RECORD_NAME
    return _RECORD.convert(path, _RECORD.read_version(path, "record_version", RECORD_VERSION), BuildRecord)


def check_built_file(path: Path, file: BuiltFile) -> None:
    """RuntimeUnavailableError unless the file `path` is the one that was built."""
    try:
        status = path.stat()
        size = status.st_size
        sha256 = _hash_once(path, size, status.st_mtime_ns) if size == file.size else ""
    except OSError as error:
        got = f"'{reason_of(error)}'"
        raise RuntimeUnavailableError(path, got, "the library that was built", _how_to_mend(path)) from error
    if sha256 != file.sha256:
        got = f"{size} bytes{sha256 and f' of SHA-256 {sha256}'}"
        expected = f"{file.size} bytes of SHA-256 {file.sha256}, as it was built"
        raise RuntimeUnavailableError(path, got, expected, _how_to_mend(path))


def _how_to_mend(path: Path) -> str:
    return f"delete {path.parent}, then build it again with `reformer-export build-library`"


@functools.lru_cache(maxsize=16)
def _hash_once(path: Path, _size: int, _modified: int) -> str:
    return sha256_of_file(path)


def _read_builds() -> Iterator[tuple[Path, BuildRecord]]:
    cache = cache_folder()
    if cache is None or not is_ours(cache / "libraries"):
        return  # before the sources are hashed: most machines have no build
    try:
        builds = builds_folder()
    except ReformerExportError:
        return  # an installation without sources
    if builds is None or not is_ours(builds):
        return
    for folder in sorted(builds.iterdir()):
        if is_ours(folder) and not folder.name.startswith("."):
            yield folder, read_record(folder)


def is_ours(folder: Path) -> bool:
    """Whether it is a folder that only this user may write to: what others may have put there is not run."""
    try:
        status = folder.stat()
    except OSError:
        return False
    if not folder.is_dir():
        return False
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's own
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
