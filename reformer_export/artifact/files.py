"""Files on disk, whatever they hold: SHA-256, names that stay in a folder, JSON, whole or unchanged."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from reformer_export.artifact.hub import blobs_of
from reformer_export.errors import (
    ArtifactError,
    InputError,
    OutputError,
    ReformerExportError,
    one_line,
    reason_of,
)

T = TypeVar("T")

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers for a disk, a quota or a file that is full."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read `path` in the block into an ArtifactError."""
    try:
        yield
    except OSError as error:
        reason = f"'{reason_of(error)}'"
        raise ArtifactError(path, reason, "a readable file", "check its permissions") from error


def require_utf8(path: Path) -> None:
    """ArtifactError for a path with bytes that are no UTF-8, which only Python and the system can open."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        expected = "one that is: ONNX Runtime and onnx take no other"
        raise ArtifactError(path, "a path that is not UTF-8", expected, "rename the folder") from error


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_text(what: str, path: Path) -> str:
    """The text in the UTF-8 file `path`, its line ends as they are and without a byte order mark; InputError,
    which names `what`, when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = f"{path}, which cannot be read ({reason_of(error)})"
        raise InputError(what, got, "UTF-8 text", "check it") from error


def resolve_inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; ArtifactError when it would leave the folder (.., absolute, links).

    Links in the hub's cache may lead to the files that it keeps beside its snapshots (hub.py).
    """
    try:
        path = (folder / name).resolve()
        named = Path(os.path.normpath(folder.resolve() / name)).is_relative_to(folder.resolve())
        homes = (folder.resolve(), blobs_of(folder))
        inside = name != "" and named and any(home and path.is_relative_to(home) for home in homes)
    except (ValueError, RuntimeError, OSError):  # a null byte, a loop of links, a name that is too long
        inside = False
    if not inside:
        raise ArtifactError(
            f"file name in {folder}",
            repr(name),
            "a path inside the artifact",
            "the artifact was tampered with, export it again",
        )
    return path


def json_text(values: Any) -> str:
    """Indented JSON; NaN and infinity, which JSON does not know, become null."""
    return json.dumps(finite_values(values), indent=2, allow_nan=False)


def finite_values(values: Any) -> Any:
    """JSON values with null in place of NaN and infinity."""
    if isinstance(values, float) and not math.isfinite(values):
        return None
    if isinstance(values, dict):
        return {name: finite_values(value) for name, value in values.items()}
    return [finite_values(value) for value in values] if isinstance(values, list | tuple) else values


@dataclass(frozen=True)
class JsonFile:
    """How to read one kind of JSON file from a stranger.

    `kind` says what is expected in it, such as "an engine's record"; `fix` how to mend a file that is
    something else; `max_bytes` is more than any that is real; `error` is raised, or for a missing file what
    `missing` makes of its path.
    """

    kind: str
    fix: str
    max_bytes: int = 2**20
    error: type[ReformerExportError] = ArtifactError
    missing: Callable[[Path], ReformerExportError] | None = None

    def read(self, path: Path) -> Any:
        """The JSON values in the file `path`; `error` when it is missing, too large, or no JSON."""
        try:
            if not path.is_file():
                raise self.missing(path) if self.missing else self.refuse(path, "no such file")
            size = path.stat().st_size
            if size > self.max_bytes:
                raise self.error(path, f"{size} bytes", f"at most {self.max_bytes}", self.fix)
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = f"'{reason_of(error)}'"
            raise self.error(path, reason, "a readable file", "check its permissions") from error
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise self.refuse(path, f"text that is not JSON ({reason})") from error

    def read_object(self, path: Path) -> dict[str, Any]:
        """As `read`; anything but an object is refused."""
        values = self.read(path)
        if not isinstance(values, dict):
            raise self.refuse(path, f"JSON that is a {type(values).__name__}")
        return values

    def read_version(self, path: Path, key: str, version: int) -> dict[str, Any]:
        """As `read_object`; its field `key`, such as "manifest_version", must be `version`."""
        values = self.read(path)
        fields: dict[str, Any] = values if isinstance(values, dict) else {}
        got = fields.get(key)
        if got is None:
            raise self.error(path, f"JSON that is not {self.kind}", f"an object with {key}", self.fix)
        if got != version or isinstance(got, bool):
            fix = f"{self.fix}, or install the reformer-export that wrote it"
            raise self.error(path, f"{key.replace('_', ' ')} {got!r:.40}", version, fix)
        return fields

    def convert(self, path: Path, values: Any, kind: type[T]) -> T:
        """`values` of the file `path` as a `kind`, every field checked against its type; else `error`."""
        try:
            return msgspec.convert(values, kind)
        except (ValueError, RecursionError, ReformerExportError) as error:
            raise self.refuse(path, f"a missing or wrong field ({one_line(error)})") from error

    def refuse(self, path: Path, got: str) -> ReformerExportError:
        """The error for a file that is `got`."""
        return self.error(path, got, self.kind, self.fix)


TORN_SECONDS: Final = 1
"""A file younger than this may belong to a process that has not locked it yet."""


@contextmanager
def replace_file(path: Path, removes_torn: bool = True) -> Iterator[BinaryIO]:
    """A stream to write `path` with: it is whole when the block ends well, else as it was.

    It is written beside its place and renamed; what killed processes have left of it there is removed, for
    which the folder is listed, if `removes_torn`. A link is followed; a device or a pipe, which cannot be
    replaced, is written to. OutputError when the system refuses.
    """
    target = Path(os.path.realpath(path))
    partial = target.parent / f"{_partial_prefix(target.name)}{secrets.token_hex(4)}"
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
            return
        if removes_torn:
            _remove_unlocked(target)
        with partial.open("xb") as stream:
            try_lock(stream.fileno())
            yield stream
        os.replace(partial, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def remove_torn(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes have left of `replace_file` for these files of `folder`, which nobody else
    may be writing."""
    torn = {_partial_prefix(name) for name in names}
    for path in folder.iterdir():
        if _begin_of_partial(path.name) in torn:
            with suppress(OSError):
                path.unlink()


def is_torn(name: str, of: str) -> bool:
    """Whether a file of this name may be what a killed process has left of `replace_file` for `of`."""
    return _begin_of_partial(name) == _partial_prefix(of)


def _remove_unlocked(target: Path) -> None:
    """Remove what processes that are gone have left of `replace_file` for `target`."""
    with suppress(OSError):  # a folder that may be written to, and not be listed
        for path in target.parent.iterdir():
            if is_torn(path.name, target.name) and path.is_file():
                with path.open("rb") as stream:
                    is_old = time.time() - os.fstat(stream.fileno()).st_mtime >= TORN_SECONDS
                    if is_old and try_lock(stream.fileno()):
                        path.unlink()


def try_lock(file: int) -> bool:
    """Take the lock of a file's descriptor, which ends with it; False where another has it, or where the
    system has no such locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _begin_of_partial(name: str) -> str:
    begin, dash, _ = name.rpartition("-")
    return begin + dash


def _partial_prefix(name: str) -> str:
    return f".{name[:100]}.partial-"


def write_atomically(path: Path, text: str) -> None:
    """Write `path`, whole or not at all, as `replace_file` does."""
    with replace_file(path) as stream:
        stream.write(text.encode("utf-8"))


def output_error(path: Path, error: OSError) -> OutputError:
    """The one line for the system's refusal to write `path`."""
    hint = "free some space (in TMPDIR too)" if error.errno in NO_ROOM else "choose another place"
    return OutputError(
        f"writing {path}",
        f"'{reason_of(error)}'",
        "a writable place with room",
        f"{hint} (nothing was changed)",
    )
