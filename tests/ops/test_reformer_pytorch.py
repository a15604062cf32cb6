"""The operators against reformer-pytorch's own modules, which are handed the operators' rotations."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.backends import BACKENDS, run_reference

reformer = pytest.importorskip("reformer_pytorch.reformer_pytorch", reason="tests/requirements.txt names it")

SELF_LOGIT = -5e4
"""Its TOKEN_SELF_ATTN_VALUE."""
EPSILON = 1e-24
"""Square of the least length to which torch.nn.functional.normalize divides."""
TOLERANCE = 2e-6
"""Of results of normal numbers in float32: a few roundings of sums of up to 200 terms. Near SELF_LOGIT a
logsumexp is a multiple of 2^-8, there and here alike."""


def run(backend, operator, inputs, attributes):
    arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
    compute = run_reference if backend == "reference" else BACKENDS[backend]
    return torch.from_numpy(compute(operator, arrays, attributes))


def merge_heads(x):
    """T [B, H, L, D] -> T [B, L, H*D]."""
    return x.transpose(1, 2).flatten(2)


class Drawn:
    """Query-keys, values [B, H, L, D] and a mask [B, L] for sequences of whole pairs of buckets."""

    def __init__(self, rng, bucket_size):
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        self.bucket_size = bucket_size
        self.batch, self.heads, self.size = int(rng.integers(1, 3)), int(rng.integers(1, 4)), 8
        self.length = 2 * bucket_size * int(rng.integers(1, 8))
        shape = (self.batch, self.heads, self.length, self.size)
        self.query_key, self.value = (torch.randn(shape, generator=generator) for _ in range(2))
        self.rounds = int(rng.integers(1, 5))
        buckets = self.length // bucket_size
        self.rotations = torch.randn(1, self.size, self.rounds, buckets // 2, generator=generator)
        self.mask = torch.rand(self.batch, self.length, generator=generator) < rng.choice([0.7, 1.1])
        self.mask[:, 0] = True

    def hash(self, backend):
        """int32 [B, H, R, L]."""
        inputs = {
            "query_key": merge_heads(self.query_key),
            "rotations": self.rotations.expand(self.heads, -1, -1, -1),
            "attention_mask": torch.ones(self.batch, self.length, dtype=torch.int32),
        }
        return run(backend, "LSHBuckets", inputs, {"num_heads": self.heads, "num_buckets": ()})

    def attend(self, backend, buckets, causal, dense_threshold, order=None):
        """[B, H, L, D]; `order`: of the positions."""
        order = torch.arange(self.length) if order is None else order
        inputs = {
            "query_key": merge_heads(self.query_key[:, :, order]) * self.size**-0.5,
            "value": merge_heads(self.value[:, :, order]),
            "buckets": buckets[..., order],
            "attention_mask": self.mask[:, order].int(),
        }
        attributes = {"num_heads": self.heads, "chunk_length": self.bucket_size, "num_chunks_before": 1}
        attributes |= {"num_chunks_after": 0, "is_causal": causal, "padding_multiple": self.bucket_size}
        attributes |= {"padding_threshold": 0, "key_norm_epsilon": EPSILON}
        attributes |= {"self_logit": SELF_LOGIT, "dense_threshold": dense_threshold}
        attended = run(backend, "LSHAttention", inputs, attributes)
        return attended.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def expect(self, module, **options):
        """What `module`, an attention of reformer-pytorch, gives: [B, H, query_len or L, D], buckets."""
        merged = (x.flatten(0, 1) for x in (self.query_key, self.value))
        mask = self.mask.repeat_interleave(self.heads, 0)
        with mock.patch.object(torch, "randn", return_value=self.rotations):
            output, _, buckets = module.eval()(*merged, input_mask=mask, **options)
        return output.unflatten(0, (self.batch, self.heads)), buckets


ALL_BACKENDS = pytest.mark.parametrize("backend", ["reference", *BACKENDS])
SEEDED = given(
    seed=st.integers(0, 2**32 - 1), bucket_size=st.sampled_from([1, 2, 4, 7]), causal=st.booleans()
)


def assert_attended_alike(got, expected, mask):
    """Where a token is masked reformer-pytorch lets it see itself only, which is the graph's affair."""
    attended = mask[:, None, :, None].expand_as(got)
    torch.testing.assert_close(got[attended], expected[attended], atol=TOLERANCE, rtol=TOLERANCE)


@ALL_BACKENDS
@settings(max_examples=15, deadline=None)
@SEEDED
def test_lsh_attention(backend, seed, bucket_size, causal):
    drawn = Drawn(np.random.default_rng(seed), bucket_size)
    module = reformer.LSHAttention(bucket_size=bucket_size, n_hashes=drawn.rounds, causal=causal)
    expected, buckets = drawn.expect(module)
    hashed = drawn.hash(backend)
    # Its buckets have each round's number added, times the number of buckets.
    count = drawn.length // bucket_size
    rounds = buckets.view(drawn.batch, drawn.heads, drawn.rounds, drawn.length)
    assert torch.equal(hashed, (rounds % count).int())
    assert_attended_alike(drawn.attend(backend, hashed, causal, 0), expected, drawn.mask)


@ALL_BACKENDS
@settings(max_examples=15, deadline=None)
@SEEDED
def test_full_attention(backend, seed, bucket_size, causal):
    drawn = Drawn(np.random.default_rng(seed), bucket_size)
    expected, _ = drawn.expect(reformer.FullQKAttention(causal=causal))
    buckets = torch.zeros(drawn.batch, drawn.heads, 1, drawn.length, dtype=torch.int32)
    got = drawn.attend(backend, buckets, causal, drawn.length)
    assert_attended_alike(got, expected, drawn.mask)


@ALL_BACKENDS
@pytest.mark.parametrize("full", [False, True])
@settings(max_examples=15, deadline=None)
@SEEDED
def test_trailing_keys_that_every_token_sees(backend, full, seed, bucket_size, causal):
    """num_mem_kv and keys=: before the sequence they need no rule of their own (docs/operators.md)."""
    rng = np.random.default_rng(seed)
    drawn = Drawn(rng, bucket_size)
    tokens = int(rng.integers(1, drawn.length + 1))
    drawn.mask[:, tokens:] = True
    module = reformer.FullQKAttention(causal=causal)
    if not full:
        module = reformer.LSHAttention(bucket_size=bucket_size, n_hashes=drawn.rounds, causal=causal)
    expected, _ = drawn.expect(module, query_len=tokens)
    order = torch.cat([torch.arange(tokens, drawn.length), torch.arange(tokens)])
    behind = (torch.arange(drawn.length) >= tokens).int()
    threshold = drawn.length if full else 0
    got = drawn.attend(backend, 2 * drawn.hash(backend) + behind, causal, threshold, order)
    got = got[:, :, drawn.length - tokens :]
    assert_attended_alike(got, expected, drawn.mask[:, :tokens])


@ALL_BACKENDS
@settings(max_examples=15, deadline=None)
@SEEDED
def test_local_attention(backend, seed, bucket_size, causal):
    drawn = Drawn(np.random.default_rng(seed), bucket_size)
    window = 2 * bucket_size
    module = reformer.LocalAttention(
        window_size=window, causal=causal, shared_qk=True, look_forward=0 if causal else 1
    )
    merged = [x.flatten(0, 1) for x in (drawn.query_key, drawn.query_key, drawn.value)]
    expected = module.eval()(*merged, input_mask=drawn.mask).unflatten(0, (drawn.batch, drawn.heads))
    inputs = {
        "query": merge_heads(drawn.query_key),
        "key": merge_heads(torch.nn.functional.normalize(drawn.query_key, dim=-1)),
        "value": merge_heads(drawn.value),
        "attention_mask": drawn.mask.int(),
    }
    attributes = {"num_heads": drawn.heads, "chunk_length": window, "num_chunks_before": 1}
    attributes |= {"num_chunks_after": 0 if causal else 1, "is_causal": causal, "padding_multiple": window}
    attributes |= {"padding_threshold": 0, "self_logit": SELF_LOGIT, "wraps": False}
    got = run(backend, "LocalAttention", inputs, attributes).unflatten(2, (drawn.heads, -1)).transpose(1, 2)
    assert_attended_alike(got, expected, drawn.mask)
