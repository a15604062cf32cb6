"""Small Hugging Face models that tests are run on: configuration T, with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import PreTrainedModel, ReformerConfig

needs_separate_bias = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.21"),
    reason="before 5.21, the last for Python 3.10, transformers saves the head's bias as lm_head.bias alone",
)


def config_t(**overrides: Any) -> ReformerConfig:
    """Configuration T: two layers (local, lsh), hidden size 16, chunks of 8, 64 positions, an encoder."""
    values: dict[str, Any] = {
        "attention_head_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "feed_forward_size": 32,
        "vocab_size": 50,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 8],
        "max_position_embeddings": 64,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
        "num_hashes": 2,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "lsh_attention_probs_dropout_prob": 0.0,
        "is_decoder": False,
        "hash_seed": 3,
    }
    return ReformerConfig(**{**values, **overrides})


def build_model(config: ReformerConfig, model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A model of `model_class` with the random weights of torch seed 0, in eval mode."""
    torch.manual_seed(0)
    return model_class(config).eval()


def save_model(tmp_path: Path, config: ReformerConfig, model_class: type[PreTrainedModel]) -> Path:
    """The folder in `tmp_path` to which `build_model`'s model was saved."""
    folder = tmp_path / model_class.__name__
    build_model(config, model_class).save_pretrained(folder)
    return folder
