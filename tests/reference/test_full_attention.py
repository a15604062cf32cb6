from __future__ import annotations

import math

import pytest
import torch

from reformer_export.modeling.layers import Norm
from reformer_export.reference.full_attention import FullSelfAttention, build_full_attention
from reformer_export.spec import LearnedPositionsSpec, LocalAttentionSpec, LSHAttentionSpec, ModelSpec


def make_spec(is_causal: bool) -> ModelSpec:
    return ModelSpec(
        task="text-generation" if is_causal else "fill-mask",
        vocab_size=11,
        hidden_size=12,
        num_heads=2,
        head_size=4,
        feed_forward_size=8,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        is_causal=is_causal,
        positions=LearnedPositionsSpec(64),
        max_position_embeddings=64,
        layers=(LocalAttentionSpec(4, 1, 0), LSHAttentionSpec(4, 1, 0, 2, (4,), 0)),
    )


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_softmax_over_all_that_may_be_seen(is_causal, layer):
    spec = make_spec(is_causal)
    attention = FullSelfAttention(spec, spec.layers[layer])
    hidden = torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = attention(hidden, torch.ones(3, 9))
        heads = [p(hidden).view(3, 9, 2, 4).transpose(1, 2) for p in attention.projections]
        logits = heads[0] @ heads[-2].transpose(-1, -2) / math.sqrt(4)
        if is_causal:
            logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        expected = (logits.softmax(-1) @ heads[-1]).transpose(1, 2).reshape(3, 9, 8)
    torch.testing.assert_close(got, expected)
    assert len(heads) == 3 - layer  # an LSH layer shares its query and key


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_model_has_the_shapes_and_no_sparse_attention(dtype):
    spec = make_spec(is_causal=True)
    state = torch.get_rng_state()
    model = build_full_attention(spec, dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(isinstance(module, FullSelfAttention) for module in model.modules()) == 2
    ids = torch.arange(33)[None] % 11
    with torch.inference_mode():
        (logits,) = model(ids, torch.ones_like(ids))
        (shorter,) = model(ids[:, :20], torch.ones(1, 20, dtype=torch.int64))
    assert (logits.shape, logits.dtype) == ((1, 33, 11), getattr(torch, dtype))
    assert logits.isfinite().all()
    # Causal, and nothing depends on chunks: the first tokens' logits are those of the shorter text.
    torch.testing.assert_close(logits[:, :20], shorter, atol=2**-6, rtol=2**-6)
    norms = {p.dtype for m in model.modules() if isinstance(m, Norm) for p in m.parameters()}
    assert norms == {torch.float32}
