"""What a loader is asked (`LoadOptions`) and what it gives back (`Checkpoint`), whatever the framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from reformer_export.errors import InputError
from reformer_export.spec import TASKS, LogitsPositions, ModelSpec, Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadOptions:
    """How to read a checkpoint. None keeps what the checkpoint says.

    `num_buckets` are the factors of the bucket count; `hash_seed` is the base seed when the checkpoint has
    none; `max_length` (tokens) is rounded up to the padded length at which `transformers` would run it,
    and lowers the model's limit to that; `allow_pickle` admits pytorch_model.bin; `revision` is a branch,
    tag or commit of the hub.
    """

    task: Task | Literal["auto"] = "auto"
    num_hashes: int | None = None
    num_buckets: tuple[int, ...] | None = None
    hash_seed: int | None = None
    max_length: int | None = None
    feed_forward_slices: int = 1
    logits: LogitsPositions = "all"
    allow_pickle: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.task != "auto" and self.task not in TASKS:
            raise InputError(
                "task", repr(self.task), f"auto or one of {', '.join(TASKS)}", "choose with `task`"
            )
        if self.max_length is not None and self.max_length < 1:
            raise InputError("max length", self.max_length, "at least 1 token", "give another `max_length`")
        if self.logits not in get_args(LogitsPositions):
            raise InputError("logits", repr(self.logits), "all or last", "choose with `logits`")


@dataclass(frozen=True)
class Checkpoint:
    """A model read from disk.

    `weights` maps each parameter's name, that of the canonical model (modeling/), to a
    float32 CPU tensor of its own memory, contiguous, in the layout of the checkpoint. `folder` is where
    the files are; `source` says where they came from, in JSON values, without any path of this machine.
    `file` is the checkpoint where it is one file: then nothing else in `folder` belongs to it.
    """

    spec: ModelSpec
    weights: dict[str, torch.Tensor]
    folder: Path
    source: dict[str, Any]
    file: Path | None = None
