"""Random-weight checkpoints of named shapes, and their artifacts, made once in benchmarks/.cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import reformer_export
from reformer_export.artifact.folder import new_folder
from reformer_export.artifact.manifest import read_manifest
from reformer_export.low_precision import WeightsType
from reformer_export.spec import DType, LogitsPositions, LSHAttentionSpec, ModelSpec

CACHE: Final = Path(__file__).parent / ".cache"
SHIPPED: Final = Path(__file__).parents[1] / "models" / "kjv-bytes"

_COMMON: Final[dict[str, Any]] = {
    "is_decoder": True,
    "hidden_act": "relu",
    "axial_pos_embds": True,
    "hidden_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_num_chunks_before": 1,
    "lsh_num_chunks_after": 0,
    "local_num_chunks_before": 1,
    "local_num_chunks_after": 0,
    "hash_seed": 0,
}

# The shapes of two published models, from their config.json. `hash_seed` is null there; a number here only
# makes eager repeat itself, at no cost.
SHAPES: Final[dict[str, dict[str, Any]]] = {
    # google/reformer-crime-and-punishment: 2.9 million parameters.
    "crime": {
        "attn_layers": ["local", "lsh"] * 3,
        "hidden_size": 256,
        "num_attention_heads": 2,
        "attention_head_size": 64,
        "feed_forward_size": 512,
        "vocab_size": 320,
        "num_hashes": 1,
        "num_buckets": [64, 128],
        "lsh_attn_chunk_length": 64,
        "local_attn_chunk_length": 64,
        "axial_pos_shape": [512, 1024],
        "axial_pos_embds_dim": [64, 192],
        "max_position_embeddings": 524288,
    },
    # google/reformer-enwik8: 149 million parameters, three LSH layers among nine local ones.
    "enwik8": {
        "attn_layers": ["local", "local", "lsh", "local"] * 3,
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "attention_head_size": 128,
        "feed_forward_size": 4096,
        "vocab_size": 258,
        "num_hashes": 4,
        "num_buckets": 512,
        "lsh_attn_chunk_length": 256,
        "local_attn_chunk_length": 128,
        "axial_pos_shape": [128, 512],
        "axial_pos_embds_dim": [256, 768],
        "max_position_embeddings": 65536,
    },
}


@dataclass(frozen=True)
class BenchmarkModel:
    """A checkpoint as transformers saves it, and the artifact exported from it."""

    name: str
    checkpoint: Path
    artifact: Path

    @property
    def spec(self) -> ModelSpec:
        return read_manifest(self.artifact).spec


def prepare_model(
    name: str,
    logits: LogitsPositions = "all",
    feed_forward_slices: int = 1,
    dtype: DType = "float32",
    *,
    decode: bool = False,
    weights: WeightsType | None = None,
) -> BenchmarkModel:
    """The model of shape `name`, or the shipped one, from the cache if it was made by the same package
    source."""
    checkpoint = SHIPPED if name == SHIPPED.name else CACHE / name / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        _save_checkpoint(name, checkpoint)
    kind = f"{dtype}-logits-{logits}-slices-{feed_forward_slices}{'-decode' * decode}"
    kind += f"-{weights}" if weights else ""
    artifact = CACHE / name / f"{kind}-{source_digest()}"
    if not artifact.is_dir():
        reformer_export.export_checkpoint(
            checkpoint,
            artifact,
            dtype=dtype,
            logits=logits,
            feed_forward_slices=feed_forward_slices,
            decode=decode,
            weights=weights,
            verify=False,
        )
    return BenchmarkModel(name, checkpoint, artifact)


def random_inputs(vocab_size: int, length: int, batch: int = 1) -> NDArray[np.int64]:
    """Seeded token ids int64 [batch, length], none of them the padding id 0."""
    return np.random.default_rng(0).integers(1, vocab_size, (batch, length), dtype=np.int64)


def count_flops(spec: ModelSpec, length: int) -> float:
    """Floating-point operations of the matrix products in one pass over `length` tokens, batch 1.

    Two per multiply-add; attention counts every pair of a chunk and its window, masked or not.
    """
    width = spec.num_heads * spec.head_size
    multiplies = 2 * spec.hidden_size * spec.vocab_size
    for layer in spec.layers:
        window = layer.chunk_length * (1 + layer.num_chunks_before + layer.num_chunks_after)
        multiplies += 2 * spec.hidden_size * spec.feed_forward_size
        if isinstance(layer, LSHAttentionSpec):
            multiplies += 3 * spec.hidden_size * width
            multiplies += layer.num_hashes * width * (sum(layer.num_buckets) // 2 + 2 * window)
        else:
            multiplies += 4 * spec.hidden_size * width + 2 * width * window
    return 2.0 * length * multiplies


def _save_checkpoint(name: str, folder: Path) -> None:
    import torch
    from transformers import ReformerConfig, ReformerModelWithLMHead

    from reformer_export.checkpoints.quiet import silence_transformers

    torch.manual_seed(0)
    config = ReformerConfig(**_COMMON, **SHAPES[name])
    with silence_transformers(), new_folder(folder, overwrite=False) as partial:
        ReformerModelWithLMHead(config).save_pretrained(partial)


def source_digest() -> str:
    """Changes with any source file that shapes an artifact."""
    package = Path(reformer_export.__file__).parent
    digest = hashlib.sha256()
    rooms = ("checkpoints", "export", "modeling", "ops")
    paths = [path for room in rooms for path in sorted((package / room).rglob("*.py"))]
    single = ("contract.py", "low_precision.py", "spec.py", "artifact/decoding.py")
    for path in (*(package / name for name in single), *paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
