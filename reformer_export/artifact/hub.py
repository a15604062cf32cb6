"""The Hugging Face hub: which names mean it, what it gives, and where its cache keeps the files.

The cache holds a repository as models--OWNER--NAME/blobs/* and a folder snapshots/COMMIT for each revision,
whose files are links to the blobs. The package huggingface_hub is imported only when a hub id was given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from reformer_export.errors import (
    ArtifactError,
    MissingDependencyError,
    ReformerExportError,
    one_line,
    reason_of,
)

EXAMPLE_ID: Final = "google/reformer-enwik8"

_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES: Final = (".onnx", ".engine", ".json")
_REPOSITORY: Final = "models--"
_SNAPSHOTS: Final = "snapshots"
_BLOBS: Final = "blobs"

_ARTIFACT_FILES: Final = ("*.json", "*.onnx", "*.onnx.data", "*.model", "vocab.txt", "merges.txt")
_ENGINE_FILES: Final = ("engines/*",)
_NESTED: Final = ("*/*",)


def is_hub_id(name: str, *, meant: bool = False) -> bool:
    """Whether `name` is OWNER/NAME and no folder or file is meant: neither it nor a folder OWNER is here,
    unless it is known that the hub is `meant`."""
    if _ID.fullmatch(name) is None or name.endswith(_FILE_SUFFIXES):
        return False
    return meant or not (os.path.lexists(name) or os.path.lexists(name.partition("/")[0]))


def locate_artifact(out: str | os.PathLike[str], *, with_engines: bool = False) -> Path:
    """The folder `out`; for text that is a hub id, the folder to which the hub's client downloads it, or
    where its cache has it.

    Raises:
        ArtifactError: the hub does not give it.
        MissingDependencyError: the hub's client is not installed.
    """
    if not isinstance(out, str) or not is_hub_id(out):
        return Path(out)
    patterns = (*_ARTIFACT_FILES, *(_ENGINE_FILES if with_engines else ()))
    return download(out, "an artifact", ArtifactError, patterns, () if with_engines else _NESTED)


def download(
    name: str,
    kind: str,
    error: type[ReformerExportError],
    patterns: Sequence[str],
    ignored: Sequence[str] = _NESTED,
    revision: str | None = None,
) -> Path:
    """The folder with the files of the hub's repository `name` that fit `patterns` and not `ignored`.

    `kind` is what is looked for, such as "a checkpoint"; `error` is raised when the hub does not give it.
    """
    client = _import_client(name)
    try:
        return Path(
            client.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignored)
            )
        )
    except Exception as problem:  # the hub client raises those of its HTTP library, which may change, too
        at = f" at revision {revision}" if revision else ""
        raise error(
            kind.split()[-1],
            f"{name}{at}, which is no folder here, and the hub did not give it ({_reason(client, problem)})",
            kind,
            "download it where there is a network and give its folder",
        ) from problem


def _import_client(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependencyError(
            "huggingface_hub",
            f"'{error}', which downloads {name}",
            "the package, or a folder here",
            "pip install huggingface-hub, or check the spelling of the folder",
        ) from error
    return huggingface_hub


def _reason(client: Any, error: Exception) -> str:
    errors = client.errors
    if isinstance(error, errors.GatedRepoError):
        return "it asks you to accept its terms and log in"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has no such model, or a private one"
    if isinstance(error, errors.HFValidationError):
        return "it is not a valid id"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "no connection, and it is not in the cache"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, OSError) and error.errno is not None:  # its cache: a full disk, or no permission
        return f"'{reason_of(error)}'{f' ({error.filename})' if error.filename else ''}"
    if isinstance(error, ImportError):  # of the client's own parts, which it imports when they are asked for
        return f"'{one_line(error)}'"
    return f"no connection: {type(error).__name__}"


def repository_of(folder: Path) -> Path | None:
    """The hub cache's own folder of the repository to which the snapshot `folder`, or one in it, belongs;
    None for any other folder."""
    here = folder.resolve()
    for path in (here, *here.parents):
        repository = path.parent.parent
        if path.parent.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY):
            return repository
    return None


def blobs_of(folder: Path) -> Path | None:
    """Where the files are to which the links in the snapshot `folder` of the hub's cache lead; None for any
    other folder."""
    repository = repository_of(folder)
    return None if repository is None else repository / _BLOBS


def name_of_folder(folder: Path) -> str:
    """What a model in `folder` goes by: OWNER/NAME in the hub's cache, else the folder's own name."""
    repository = repository_of(folder)
    if repository is None:
        return folder.resolve().name
    return repository.name.removeprefix(_REPOSITORY).replace("--", "/")
