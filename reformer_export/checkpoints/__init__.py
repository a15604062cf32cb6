"""Foreign checkpoints -> (ModelSpec, weights)."""

from __future__ import annotations

from reformer_export.checkpoints.checkpoint import Checkpoint, LoadOptions
from reformer_export.checkpoints.huggingface import load_huggingface
from reformer_export.checkpoints.names import expected_shapes
from reformer_export.checkpoints.source import locate_checkpoint, tokenizer_files

__all__ = [
    "Checkpoint",
    "LoadOptions",
    "expected_shapes",
    "load_huggingface",
    "locate_checkpoint",
    "tokenizer_files",
]
