"""Foreign checkpoints -> (ModelSpec, weights)."""

from __future__ import annotations

from reformer_export.checkpoints.checkpoint import Checkpoint, LoadOptions
from reformer_export.checkpoints.huggingface import load_huggingface, read_head_bias
from reformer_export.checkpoints.lucidrains import load_lucidrains, read_lucidrains_state
from reformer_export.checkpoints.names import HEAD_OF_TASK, expected_shapes
from reformer_export.checkpoints.source import locate_checkpoint, tokenizer_files

__all__ = [
    "HEAD_OF_TASK",
    "Checkpoint",
    "LoadOptions",
    "expected_shapes",
    "load_huggingface",
    "load_lucidrains",
    "locate_checkpoint",
    "read_head_bias",
    "read_lucidrains_state",
    "tokenizer_files",
]
