from __future__ import annotations

import numpy as np
import pytest
import torch

from reformer_export.contract import SELF_LOGIT
from reformer_export.ops import lsh_attention_reference, lsh_buckets_reference
from reformer_export.parity.hashing import MARGIN_EDGES, measure_margins, trace_pattern
from reformer_export.spec import DTYPES, LSHAttentionSpec, ModelSpec
from tests.lucidrains import require_package
from tests.test_lucidrains_spec import make_spec as make_lucidrains_spec
from tests.test_spec import replace

FACTORS = (4, 6)


def make_spec(num_hashes: int = 2, causal: bool = True) -> ModelSpec:
    """Two heads of eight elements, chunks of eight; layer 0 hashes."""
    layer = LSHAttentionSpec(8, 1, 0, num_hashes, FACTORS, 3)
    return replace(layers=(layer,), num_heads=2, head_size=8, is_causal=causal, task="text-generation")


def draw(spec: ModelSpec, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query_key float32 [1, L, 16], rotations float32 [2, 8, R, 5], mask int32 [1, L]."""
    random = torch.Generator().manual_seed(seed)
    query_key = torch.randn(1, length, 16, generator=random)
    rotations = torch.randn(2, 8, 2, 5, generator=random)
    return query_key, rotations, torch.ones(1, length, dtype=torch.int32)


def test_margins_say_how_far_a_vector_may_move() -> None:
    """Noise below a token's margin flips none of its hashes; noise above it flips some."""
    spec = make_spec()
    query_key, rotations, mask = draw(spec, 400)
    histogram = measure_margins(spec, 0, query_key.numpy(), rotations.numpy(), mask.numpy())
    assert sum(histogram.counts) == 400 * 2 * 2
    assert len(histogram.counts) == len(MARGIN_EDGES) - 1
    rounded = query_key.to(torch.bfloat16).float()
    buckets = lsh_buckets_reference(query_key, rotations, mask, 2, list(FACTORS))
    moved = lsh_buckets_reference(rounded, rotations, mask, 2, list(FACTORS))
    flipped = (buckets != moved).any(dim=2).any(dim=1).float().mean().item()
    assert 0 < flipped < histogram.below["bfloat16"] < 8 * flipped
    assert histogram.below["float32"] < histogram.below["float16"] < histogram.below["bfloat16"] < 0.5


def test_a_tie_has_no_margin() -> None:
    spec = make_spec()
    query_key, rotations, mask = draw(spec, 4)
    query_key[0, 1] = 0
    histogram = measure_margins(spec, 0, query_key.numpy(), rotations.numpy(), mask.numpy())
    assert histogram.counts[0] >= 2 * 2
    assert histogram.below["float32"] == 0.25
    assert set(histogram.below) == set(DTYPES)


def test_masked_tokens_are_left_out() -> None:
    spec = make_spec()
    query_key, rotations, mask = draw(spec, 8)
    mask[0, 5:] = 0
    histogram = measure_margins(spec, 0, query_key.numpy(), rotations.numpy(), mask.numpy())
    assert sum(histogram.counts) == 5 * 2 * 2


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [8, 16, 64])
def test_the_pattern_is_what_the_operator_sees(causal: bool, length: int) -> None:
    """A value that only key j has reaches exactly the queries that list j (and may see it)."""
    spec = make_spec(causal=causal)
    query_key, rotations, mask = draw(spec, length)
    buckets = lsh_buckets_reference(query_key, rotations, mask, 2, list(FACTORS))
    pattern = trace_pattern(spec, 0, query_key[0].numpy(), buckets[0].numpy(), head=1)
    listed = np.array(pattern.listed)
    if causal:
        assert (listed == np.tril(listed)).all()
    else:
        assert listed.sum() == (8 * 8 if length == 8 else 2 * length * 16)
    for key in range(0, length, 5):
        value = torch.zeros(1, length, 16)
        value[0, key, 8:] = 1.0
        output = lsh_attention_reference(
            query_key, value, buckets, mask, 2, 8, 1, 0, causal, 8, 8, 1e-6, SELF_LOGIT, 8
        )[0, :, 8:].sum(-1)
        reached = output.numpy() > 1e-30
        visible = (listed[:, key] > 0) & (np.arange(length) != key)
        if causal:
            visible &= np.arange(length) > key
        others = np.arange(length) != key
        assert (reached[others] == visible[others]).all()
    assert np.allclose(np.array(pattern.attention).sum(1), 1, atol=1e-3)
    assert 0 < pattern.covered <= 1
    if length == 8:
        assert pattern.covered == pytest.approx(1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("memory", [0, 5])
def test_the_pattern_is_what_reformer_pytorch_says_of_itself(causal: bool, memory: int) -> None:
    """Its attention by hash, and its full attention, tell their weights."""
    require_package()
    from reformer_pytorch.reformer_pytorch import FullQKAttention, LSHAttention

    keys, size, hashes = 48, 8, 3
    tokens = keys - memory
    layer = LSHAttentionSpec(4, 1, 0, hashes, (), 0)
    spec = make_lucidrains_spec(
        num_heads=1,
        head_size=size,
        layers=(layer,),
        is_causal=causal,
        num_memory_keys=memory,
        is_padded=False,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        query_key, value = torch.randn(2, 1, keys, size)
        hashed = LSHAttention(bucket_size=4, n_hashes=hashes, causal=causal, return_attn=True).eval()
        _, weights, counted = hashed(query_key, value, query_len=tokens)
        _, full, _ = FullQKAttention(causal=causal).eval()(query_key, value, query_len=tokens)
    in_round = counted.view(hashes, keys) - torch.arange(hashes)[:, None] * (keys // 4)
    buckets = in_round.roll(memory, 1).int().numpy()[None]
    pattern = trace_pattern(spec, 0, (query_key[0] * size**-0.5).roll(memory, 0).numpy(), buckets)
    assert (pattern.length, pattern.num_memory_keys) == (tokens, memory)
    assert np.array(pattern.buckets).shape == (tokens,)
    others = ~np.eye(tokens, keys, memory, dtype=bool)
    reached = weights[0].roll(memory, 1).numpy() > 0
    assert (reached == (np.array(pattern.listed) > 0))[others].all()
    assert 0 < reached[others].mean() < 1
    np.testing.assert_allclose(np.array(pattern.attention), full[0].roll(memory, 1).numpy(), atol=2e-6)


def test_margins_are_those_of_the_rotations_that_a_length_uses() -> None:
    """And of masked tokens too, which hash in reformer-pytorch."""
    layer = LSHAttentionSpec(4, 1, 0, 2, (), 0)
    spec = make_lucidrains_spec(num_heads=3, head_size=8, layers=(layer,), num_local_heads=1)
    random = torch.Generator().manual_seed(0)
    query_key, rotations = torch.randn(1, 24, 16, generator=random), torch.randn(2, 8, 2, 6, generator=random)
    mask = (np.arange(24) < 9).astype(np.int64)[None]
    histogram = measure_margins(spec, 0, query_key.numpy(), rotations.numpy(), mask)
    used = measure_margins(spec, 0, query_key.numpy(), rotations[..., :3].numpy(), np.ones_like(mask))
    assert histogram == used
    assert sum(histogram.counts) == 24 * 2 * 2
