"""Load a Reformer that `transformers` saved: config.json and weights -> Checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reformer_export.artifact.files import sha256_of_file
from reformer_export.checkpoints.checkpoint import Checkpoint, LoadOptions
from reformer_export.checkpoints.config import Config, choose_task, read_config, spec_from_config
from reformer_export.checkpoints.names import (
    BASE_PREFIX,
    DECODER_BIAS,
    LM_HEAD_BIAS,
    Selection,
    heads_among,
    normalise_names,
    select_tensors,
)
from reformer_export.checkpoints.source import Location, locate_checkpoint
from reformer_export.checkpoints.weights import TensorHeader, WeightFiles, open_weights
from reformer_export.errors import CheckpointError, reason_of

if TYPE_CHECKING:
    import torch


def load_huggingface(source: str, options: LoadOptions) -> Checkpoint:
    """Read the checkpoint `source`, a folder or the id of a model on the hub.

    Everything is checked before a tensor is read, and every tensor after it.

    Raises:
        CheckpointError: the checkpoint is missing, broken, or not a Reformer that can be exported.
        SpecError: its config.json asks for what a Reformer cannot do.
        InputError: the options do not fit it.
    """
    location = locate_checkpoint(source, options)
    try:
        return _load(location, options)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {location.folder}",
            f"'{reason_of(error)}' while reading it",
            "readable files",
            "check the disk and the permissions",
        ) from error


def read_head_bias(folder: Path, allow_pickle: bool) -> torch.Tensor:
    """The trained bias of the language-model head in the checkpoint `folder`, float32 [vocab_size]."""
    files = open_weights(folder, allow_pickle)
    stored = DECODER_BIAS if DECODER_BIAS in files.headers else LM_HEAD_BIAS
    if stored not in files.headers:
        expected = "the bias of the language-model head"
        raise CheckpointError(f"checkpoint {folder}", f"no {DECODER_BIAS}", expected, "save it again")
    return files.read([stored])[stored]


def _load(location: Location, options: LoadOptions) -> Checkpoint:
    folder = location.folder
    config = read_config(folder)
    files = open_weights(folder, options.allow_pickle)
    names = normalise_names(folder, files.headers)
    task = choose_task(config, heads_among(names), options.task)
    spec, choices = spec_from_config(config, task, options)
    selection = select_tensors(folder, spec, names, files.headers)
    tensors = files.read(selection.stored.values())
    source = {
        **_describe_location(location, config, files),
        **_describe_tensors(selection, files.headers),
        **choices,
    }
    return Checkpoint(
        spec=spec,
        weights={name: tensors[stored] for name, stored in selection.stored.items()},
        folder=folder,
        source=source,
    )


def _describe_location(location: Location, config: Config, files: WeightFiles) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "huggingface", "name": location.name}
    if location.commit is not None:
        found |= {"revision": location.revision, "commit": location.commit}
    read: tuple[Path, ...] = (config.path, *files.files)
    return found | {
        "architecture": config.architecture,
        "files": {file.name: sha256_of_file(file) for file in read},
        "ignored_fields": list(config.ignored),
    }


def _describe_tensors(selection: Selection, headers: dict[str, TensorHeader]) -> dict[str, Any]:
    return {
        "stored_dtypes": sorted({headers[stored].dtype for stored in selection.stored.values()}),
        "dropped_weights": list(selection.dropped),
        "ignored_weights": list(selection.ignored),
        "renamed_weights": {
            name: stored
            for name, stored in selection.stored.items()
            if stored.removeprefix(BASE_PREFIX) != name
        },
    }
