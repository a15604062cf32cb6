"""Find a checkpoint: a folder of this machine, or a model of the Hugging Face hub; read its small files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact import hub
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
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)

_HUB_PATTERNS: Final = ("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt")
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
        if options.revision is not None:
            got = f"it for the folder {source}, which has no others"
            raise CheckpointError("revision", got, "it with a hub id", "leave it out, or give the hub's id")
        return Location(path, hub.name_of_folder(path))
    if source and path.exists():
        raise CheckpointError(
            "checkpoint",
            f"the file {source}",
            f"a folder with {CONFIG_NAME} and weights, or a hub id",
            "give the folder that holds it, or add `config` for a model of reformer-pytorch",
        )
    if not hub.is_hub_id(source, meant=options.revision is not None):
        raise CheckpointError(
            "checkpoint",
            f"{source!r}, which does not exist",
            f"a folder or a hub id such as {hub.EXAMPLE_ID}",
            "check the spelling",
        )
    patterns = [*_HUB_PATTERNS, *(_HUB_PICKLE_PATTERNS if options.allow_pickle else ())]
    folder = hub.download(source, "a checkpoint", CheckpointError, patterns, revision=options.revision)
    return Location(folder, source, options.revision, folder.name)


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object of at most `max_bytes`; CheckpointError when it is missing, too large or broken."""
    fix = "download or save it again"
    return JsonFile("a JSON object", fix, max_bytes, CheckpointError, _no_json).read_object(path)


def _no_json(path: Path) -> CheckpointError:
    inner = sorted(str(each.parent) for each in path.parent.glob(f"*/{path.name}"))  # a training's folder
    fix = f"give {' or '.join(inner[-3:])}" if inner else "give the folder that `save_pretrained` wrote"
    return CheckpointError(f"checkpoint {path.parent}", f"no {path.name}", "it beside the weights", fix)


def tokenizer_files(folder: Path) -> list[Path]:
    """The config and tokenizer files in `folder` that are worth copying into an artifact."""
    return [folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()]
