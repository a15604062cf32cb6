"""Random Reformers: hypothesis strategies for configurations and inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import ReformerConfig


@st.composite
def reformer_configs(draw: st.DrawFn, **fixed: Any) -> ReformerConfig:
    """Small configurations over head sizes, hashes, factored buckets, unlike chunk lengths, windows, causal
    or not, axial or learned positions, activations, seeds or none."""
    heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    hidden = draw(st.integers(2, 12)) * 2
    local_chunk, lsh_chunk = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    multiple = math.lcm(local_chunk, lsh_chunk)
    columns = draw(st.integers(2, 9))
    rows = -(-4 * multiple // columns)
    first = draw(st.integers(1, hidden - 1))
    values = {
        "vocab_size": draw(st.integers(3, 40)),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "attention_head_size": size,
        "feed_forward_size": draw(st.integers(1, 20)),
        "attn_layers": draw(st.lists(st.sampled_from(["local", "lsh"]), min_size=1, max_size=3)),
        "local_attn_chunk_length": local_chunk,
        "lsh_attn_chunk_length": lsh_chunk,
        "local_num_chunks_before": draw(st.integers(0, 2)),
        "local_num_chunks_after": draw(st.integers(0, 2)),
        "lsh_num_chunks_before": draw(st.integers(0, 2)),
        "lsh_num_chunks_after": draw(st.integers(0, 2)),
        "num_hashes": draw(st.integers(1, 5)),
        "num_buckets": draw(st.sampled_from([2, 4, 6, 16, [2, 4], [4, 6, 2]])),
        "is_decoder": draw(st.booleans()),
        "axial_pos_embds": draw(st.booleans()),
        "axial_pos_shape": [rows, columns],
        "axial_pos_embds_dim": [first, hidden - first],
        "max_position_embeddings": rows * columns,
        "hidden_act": draw(st.sampled_from(["relu", "gelu", "gelu_new", "silu"])),
        "hash_seed": draw(st.one_of(st.none(), st.integers(0, 2**31))),
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.5,
    }
    return ReformerConfig(**{**values, **fixed})


def random_inputs(
    rng: np.random.Generator, vocab_size: int, length: int, batch: int, masked: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and a right-padded mask, int64 [batch, length]; each row keeps at least one token."""
    ids = rng.integers(0, vocab_size, (batch, length), dtype=np.int64)
    kept = rng.integers(1, length + 1, batch) if masked else np.full(batch, length)
    return ids, (np.arange(length) < kept[:, None]).astype(np.int64)
