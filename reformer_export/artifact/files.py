"""Files on disk, whatever they hold: SHA-256, names that stay in a folder, JSON, whole or unchanged."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from reformer_export.errors import ArtifactError, OutputError

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers for a disk, a quota or a file that is full."""


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def resolve_inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; ArtifactError when it would leave the folder (.., absolute, links)."""
    try:
        path = (folder / name).resolve()
        inside = name != "" and path.is_relative_to(folder.resolve())
    except (ValueError, RuntimeError, OSError):  # a null byte, a loop of links, a name that is too long
        inside = False
    if not inside:
        raise ArtifactError(
            f"file name in {folder}: got {name!r}, expected a path inside the artifact; "
            "the artifact was tampered with, export it again"
        )
    return path


def json_text(values: Any) -> str:
    """Indented JSON; NaN and infinity, which JSON does not know, become null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, float) and not math.isfinite(values):
        return None
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    return [_finite(value) for value in values] if isinstance(values, list | tuple) else values


def write_atomically(path: Path, text: str) -> None:
    """Write `path` through a file beside it, so that it is whole or unchanged; OutputError when refused.

    A link is followed; a device or a pipe, which cannot be replaced, is written to.
    """
    target = Path(os.path.realpath(path))
    partial = target.parent / f".{secrets.token_hex(4)}.partial"
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def output_error(path: Path, error: OSError) -> OutputError:
    """The one line for the system's refusal to write `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "free some space (in TMPDIR too)" if error.errno in NO_ROOM else "choose another place"
    return OutputError(
        f"writing {path}: got '{reason}', expected a writable place with room; {hint} (nothing was changed)"
    )
