"""REPOSITORY/reformer-export.json: what was written there, and from what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from reformer_export.artifact.engine_record import EngineName, Sha256, Text
from reformer_export.artifact.files import JsonFile, json_text
from reformer_export.errors import ReformerExportError
from reformer_export.serving.triton.options import TritonRequest

RECORD_NAME: Final = "reformer-export.json"
README_NAME: Final = "README.md"
CONFIG_NAME: Final = "config.pbtxt"
VERSION: Final = "1"
"""The folder of the only version of each model."""

REPOSITORY_VERSION: Final = 1

RelativePath = Annotated[str, msgspec.Meta(pattern=r"\A(?!/)(?!.*(\A|/)\.\.?(/|\Z))[^\\\0]{1,500}\Z")]


@dataclass(frozen=True)
class LibraryRecord:
    """The operator library in the repository: `path` from its root."""

    path: RelativePath
    version: Text
    abi_version: int


@dataclass(frozen=True)
class RepositoryRecord:
    """What a repository is.

    `options` are the fields of the `TritonRequest`; `models` their names; `manifest` the path of the
    artifact's manifest.json from the root; `engine` the served engine's name, and `engine_record` the path of
    its record; `files` maps the path of every other file to its SHA-256 (hex).
    """

    options: dict[str, Any]
    models: Annotated[tuple[EngineName, ...], msgspec.Meta(min_length=1)]
    manifest: RelativePath
    files: dict[RelativePath, Sha256]
    tool_version: Text
    library: LibraryRecord | None = None
    engine: EngineName | None = None
    engine_record: RelativePath | None = None

    @property
    def request(self) -> TritonRequest:
        """How it was asked for; InputError for what no version of ours would have written."""
        return TritonRequest(**{**self.options, "overwrite": False})

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"repository_version": REPOSITORY_VERSION, **dataclasses.asdict(self)}


_FILE: Final = JsonFile("a Triton repository's record", "write it again with `reformer-export triton`")


def record_text(record: RepositoryRecord) -> str:
    """What the record's file holds."""
    return json_text(record.to_dict()) + "\n"


def is_repository(path: Path) -> bool:
    """Whether `path` is a repository of ours, or its record."""
    try:
        return path.name == RECORD_NAME or (path / RECORD_NAME).is_file()
    except OSError:
        return False


def read_repository_record(folder: Path) -> RepositoryRecord:
    """Read and check `folder`/reformer-export.json; ArtifactError when it is missing or broken."""
    path = folder / RECORD_NAME
    values = _FILE.read_version(path, "repository_version", REPOSITORY_VERSION)
    record = _FILE.convert(path, values, RepositoryRecord)
    try:
        record.request  # noqa: B018
    except (TypeError, ReformerExportError) as error:
        raise _FILE.refuse(path, "options that are none of this version's") from error
    return record
