"""What the runtimes need of the checkpoint's own config.json and generation_config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reformer_export.artifact.files import JsonFile

CONFIG_NAME: Final = "config.json"
GENERATION_CONFIG_NAME: Final = "generation_config.json"
_FILE: Final = JsonFile("a JSON object", "restore the file, or export the checkpoint again", 64 * 2**20)


@dataclass(frozen=True)
class SourceConfig:
    """Special tokens and labels; each empty when the checkpoint does not name it.

    `id2label` maps a class index to its name; ids outside the vocabulary are left out.
    """

    pad_token_id: int = 0
    eos_token_ids: tuple[int, ...] = ()
    id2label: dict[int, str] = field(default_factory=dict)


def read_source_config(folder: Path, vocab_size: int) -> SourceConfig:
    """Read `folder`'s config files where they exist; ArtifactError when one is not a JSON object."""
    paths = (folder / CONFIG_NAME, folder / GENERATION_CONFIG_NAME)
    config, generation = (_FILE.read_object(path) if path.is_file() else {} for path in paths)
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    pad = _valid_ids(config.get("pad_token_id"), vocab_size)
    labels = config.get("id2label")
    return SourceConfig(
        pad_token_id=pad[0] if pad else 0,
        eos_token_ids=_valid_ids(eos, vocab_size),
        id2label={int(k): str(v) for k, v in labels.items() if str(k).isdecimal() and len(k) < 10}
        if isinstance(labels, dict)
        else {},
    )


def _valid_ids(value: object, vocab_size: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if type(v) is int and 0 <= v < vocab_size)
