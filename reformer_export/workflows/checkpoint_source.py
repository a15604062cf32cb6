"""Where the checkpoint of an artifact is: written into the manifest by `onnx`, found again by `verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import ArtifactError, InputError
from reformer_export.lucidrains_spec import LucidrainsSpec

if TYPE_CHECKING:
    from reformer_export.checkpoints import Checkpoint


def source_with_path(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """`checkpoint.source` with the way from `out` to the checkpoint's folder or file, unless the hub has it.

    A relative path tells nobody how this machine is laid out, and holds when both folders move together.
    """
    if "commit" in checkpoint.source:
        return checkpoint.source
    checkpoint_path = checkpoint.file or checkpoint.folder
    relative = os.path.relpath(checkpoint_path.resolve(), out.resolve())
    return {**checkpoint.source, "path": Path(relative).as_posix()}


def find_checkpoint(out: Path, manifest: Manifest, named: str | None) -> Path:
    """The folder, or the one file, of the checkpoint that `out` was exported from, or of the one that the
    user names instead.

    Raises:
        InputError: it is not where it was, or its files are not those that were exported.
        ArtifactError: the manifest does not say which files were exported.
        CheckpointError: the one that is named does not exist, or the hub does not give it.
    """
    from reformer_export.checkpoints import LoadOptions, locate_checkpoint

    digests = _exported_files(out, manifest)
    source = manifest.source
    if isinstance(manifest.spec, LucidrainsSpec):
        return _find_file(out, source, digests, named)
    checkpoint = named or _recorded_checkpoint(out, source)
    pickled = any(name.endswith(".bin") for name in digests)
    commit = None if Path(checkpoint).is_dir() else source.get("commit")
    location = locate_checkpoint(checkpoint, LoadOptions(revision=commit, allow_pickle=pickled))
    for name, digest in digests.items():
        path = location.folder / name
        if not path.is_file() or sha256_of_file(path) != digest:
            got = f"another {name} than" if path.is_file() else f"no {name}, which was in"
            raise InputError(
                f"checkpoint {checkpoint}",
                f"{got} the one that {out} was exported from",
                "the same files",
                "give the right `checkpoint`, or export again",
            )
    return location.folder


def _find_file(out: Path, source: dict[str, Any], digests: dict[str, str], named: str | None) -> Path:
    """The checkpoint's one file, compared with its SHA-256."""
    path, name = source.get("path"), source.get("name")
    if not isinstance(path, str) or not isinstance(name, str) or name not in digests:
        expected = "the name and the place of its file"
        raise ArtifactError(f"manifest of {out}", "no checkpoint's file", expected, "export again")
    file = out.resolve() / path if named is None else Path(named)
    if not file.is_file():
        expected = f"the file {name} that was exported"
        raise InputError(f"checkpoint of {out}", f"no file {file}", expected, "give it with `checkpoint`")
    if sha256_of_file(file) != digests[name]:
        got = f"another file than the one that {out} was exported from"
        raise InputError(
            f"checkpoint {file}", got, "the same", "give the right `checkpoint`, or export again"
        )
    return file


def _exported_files(out: Path, manifest: Manifest) -> dict[str, str]:
    digests = manifest.source.get("files")
    if not isinstance(digests, dict) or not digests or not all(map(_is_file_name, digests)):
        raise ArtifactError(
            f"manifest of {out}",
            "no list of the checkpoint's files",
            "their names and SHA-256, so that eager runs the same weights",
            "export the checkpoint again",
        )
    return digests


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _recorded_checkpoint(out: Path, source: dict[str, Any]) -> str:
    path = source.get("path")
    if isinstance(path, str) and (out.resolve() / path).is_dir():
        return str(out.resolve() / path)
    if isinstance(source.get("commit"), str) and isinstance(source.get("name"), str):
        return str(source["name"])
    where = f"{out / path}" if isinstance(path, str) else "unknown"
    raise InputError(
        f"checkpoint of {out}",
        f"none where it was at the export ({where})",
        "the folder or hub id that was exported",
        "give it with `checkpoint`",
    )
