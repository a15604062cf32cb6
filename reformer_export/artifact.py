"""The artifact on disk: OUT/model.onnx, OUT/manifest.json and what stands beside them.

Writing happens in a folder beside OUT that is renamed into place when it is whole. Reading checks the
manifest's version, that no path leaves the folder, and the SHA-256 of every file it names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reformer_export.errors import ArtifactError, OutputError
from reformer_export.spec import DTYPES, DType, ModelSpec, spec_from_dict

MANIFEST_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MODEL_NAME: Final = "model.onnx"
EXTERNAL_DATA_NAME: Final = "model.onnx.data"
MAX_MANIFEST_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    `files` maps each file's name to its SHA-256 (hex); `rotations_sha256` maps an LSH layer's index to the
    SHA-256 of its rotations (float32, C order); `source` says where the checkpoint came from;
    `versions` names the tools and libraries that made it; `parity` is the verify summary, if one ran.
    """

    spec: ModelSpec
    dtype: DType
    opset: int
    operators: dict[str, int]
    source: dict[str, Any]
    rotations_sha256: dict[str, str]
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "manifest_version": MANIFEST_VERSION,
            "spec": self.spec.to_dict(),
            "max_length": self.spec.max_length,
            "dtype": self.dtype,
            "opset": self.opset,
            "operators": self.operators,
            "source": self.source,
            "rotations_sha256": self.rotations_sha256,
            "versions": self.versions,
            "files": self.files,
            "parity": self.parity,
        }


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def resolve_inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; ArtifactError when it would leave the folder (.., absolute, links)."""
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()):
        raise ArtifactError(
            f"file name in {folder}: got {name!r}, expected a path inside the artifact; "
            "the artifact was tampered with, export it again"
        )
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write `path` through a file beside it, so that it is whole or unchanged; OutputError when refused."""
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, whole or not at all."""
    write_atomically(folder / MANIFEST_NAME, json.dumps(manifest.to_dict(), indent=2) + "\n")


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some space" if full else "choose another place"
    return OutputError(
        f"writing {path}: got '{reason}', expected a writable place with room; {hint} (nothing was changed)"
    )


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json; ArtifactError when it is missing, broken or of another version."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            f"artifact: got {folder} without {MANIFEST_NAME}, expected a folder written by "
            "`reformer-export onnx`; export the checkpoint first"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{path}: got {path.stat().st_size} bytes, expected at most {MAX_MANIFEST_BYTES}; export it again"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["manifest_version"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: got text that is no manifest ({error}), expected JSON with a manifest_version; "
            "export the checkpoint again"
        ) from error
    if version != MANIFEST_VERSION:
        raise ArtifactError(
            f"{path}: got manifest version {version}, expected {MANIFEST_VERSION}; "
            "export it again, or install the reformer-export that wrote it"
        )
    return _manifest_from_dict(path, values)


def _manifest_from_dict(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        manifest = Manifest(
            spec=spec_from_dict(values["spec"]),
            dtype=values["dtype"],
            opset=int(values["opset"]),
            operators=dict(values["operators"]),
            source=dict(values["source"]),
            rotations_sha256=dict(values["rotations_sha256"]),
            versions=dict(values["versions"]),
            files={str(name): str(digest) for name, digest in values["files"].items()},
            parity=values["parity"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: got a manifest with a missing or wrong field ({error!r}), expected the fields of "
            "version 1; export the checkpoint again"
        ) from error
    if manifest.dtype not in DTYPES:
        raise ArtifactError(
            f"{path}: got dtype {manifest.dtype!r}, expected one of {', '.join(DTYPES)}; export it again"
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file the manifest names with its SHA-256; ArtifactError names the first that differs."""
    if MODEL_NAME not in manifest.files:
        raise ArtifactError(f"{folder / MANIFEST_NAME}: got no {MODEL_NAME}, expected it; export again")
    for name, expected in manifest.files.items():
        path = resolve_inside(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{path}: got no such file, expected it beside the manifest; export again")
        got = sha256_of_file(path)
        if got != expected:
            raise ArtifactError(
                f"{path}: got SHA-256 {got[:16]}..., expected {expected[:16]}... as the manifest says; "
                "the file changed after the export, export the checkpoint again"
            )


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` to write into; renamed to `out` when the block ends well, removed otherwise.

    OutputError when `out` exists (and `overwrite` is false) or the disk refuses a write.
    """
    out = Path(os.path.abspath(out))
    check_new_folder(out, overwrite)
    partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _move_into_place(partial, out, overwrite)
    except OSError as error:
        raise _output_error(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new_folder(out: Path, overwrite: bool) -> None:
    """OutputError unless `out` is free, or an artifact (or empty folder) that `overwrite` may replace."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise OutputError(
            f"OUT: got {out}, which exists, expected a new folder; use --overwrite or another OUT"
        )
    if out.is_symlink() or not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file()):
        raise OutputError(
            f"OUT: got {out}, which is no artifact, expected an artifact to overwrite; choose another OUT"
        )


def _move_into_place(partial: Path, out: Path, overwrite: bool) -> None:
    check_new_folder(out, overwrite)
    if not out.exists():
        partial.rename(out)
        return
    old = out.parent / f".{out.name}.old-{secrets.token_hex(4)}"
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
