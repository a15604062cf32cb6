"""Find a checkpoint: a folder of this machine, or a model of the Hugging Face hub; read its small files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.files import JsonFile
from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.errors import CheckpointError

CONFIG_NAME: Final = "config.json"
MAX_CONFIG_BYTES: Final = 16 * 2**20
MAX_INDEX_BYTES: Final = 64 * 2**20

TOKENIZER_NAMES: Final = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_PATTERNS: Final = ("*.json", "*.safetensors", "spiece.model", "vocab.txt", "merges.txt")
_HUB_PICKLE_PATTERNS: Final = ("pytorch_model*.bin",)


@dataclass(frozen=True)
class Location:
    """Where a checkpoint's files are, and the name it goes by; revision and commit only from the hub."""

    folder: Path
    name: str
    revision: str | None = None
    commit: str | None = None


def locate_checkpoint(source: str, options: LoadOptions) -> Location:
    """The folder of `source`: itself if it is one, else downloaded from (or cached by) the hub."""
    path = Path(source)
    if source and path.is_dir():
        return Location(path, path.resolve().name)
    if source and path.exists():
        raise CheckpointError(
            "checkpoint",
            f"the file {source}",
            f"a folder with {CONFIG_NAME} and weights, or a hub id",
            "give the folder that holds it",
        )
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            "checkpoint",
            f"{source!r}, which does not exist",
            "a folder or a hub id such as google/reformer-enwik8",
            "check the spelling",
        )
    return _download(source, options)


def _download(source: str, options: LoadOptions) -> Location:
    import huggingface_hub

    patterns = [*_HUB_PATTERNS, *(_HUB_PICKLE_PATTERNS if options.allow_pickle else ())]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                source, revision=options.revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except Exception as error:  # the hub client raises those of its HTTP library, which may change, too
        at = f" at revision {options.revision}" if options.revision else ""
        raise CheckpointError(
            "checkpoint",
            f"{source}{at}, which is no folder here, and the hub did not give it ({_reason(error)})",
            "a checkpoint",
            "download it where there is a network and give its folder",
        ) from error
    return Location(folder, source, options.revision, folder.name)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

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
    return f"no connection: {type(error).__name__}"


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object of at most `max_bytes`; CheckpointError when it is missing, too large or broken."""
    fix = "download or save it again"
    return JsonFile("a JSON object", fix, max_bytes, CheckpointError, _no_json).read_object(path)


def _no_json(path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path.parent}",
        f"no {path.name}",
        "it beside the weights",
        "give the folder that `save_pretrained` wrote",
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """The config and tokenizer files in `folder` that are worth copying into an artifact."""
    return [folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()]
