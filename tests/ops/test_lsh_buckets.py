from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.ops import draw_rotations, lsh_buckets, lsh_buckets_reference
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import BACKENDS, random_mask, require_native


def make_inputs(rng, batch, length, heads, size, rounds, factors, dtype=np.float32):
    columns = sum(factors) // 2 or int(rng.integers(1, 12))
    return {
        "query_key": rng.standard_normal((batch, length, heads * size)).astype(dtype),
        "rotations": rng.standard_normal((heads, size, rounds, columns)).astype(np.float32),
        "attention_mask": random_mask(rng, batch, length),
    }


def brute_force(inputs, heads, factors):
    """The contract's sentence, one token at a time, in float64."""
    x, rotations, mask = inputs["query_key"], inputs["rotations"], inputs["attention_mask"]
    batch, length, _ = x.shape
    x = x.reshape(batch, length, heads, -1).astype(np.float64)
    out = np.zeros((batch, heads, rotations.shape[2], length), np.int32)
    factors = factors or [2 * rotations.shape[3]]
    for b, h, r, position in np.ndindex(out.shape):
        y = x[b, position, h] @ rotations[h, :, r]
        bucket, product, first = 0, 1, 0
        for factor in factors:
            part = y[first : first + factor // 2]
            bucket += int(np.argmax(np.concatenate([part, -part]))) * product
            product *= factor
            first += factor // 2
        out[b, h, r, position] = bucket if mask[b, position] else product
    return out


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factors=st.lists(st.sampled_from([2, 4, 6, 8]), max_size=3))
def test_reference_is_the_contract(seed, factors):
    rng = np.random.default_rng(seed)
    heads, size, rounds = rng.integers(1, 4), rng.integers(1, 9), rng.integers(1, 4)
    inputs = make_inputs(rng, 2, int(rng.integers(1, 9)), heads, size, rounds, factors)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    got = lsh_buckets_reference(**tensors, num_heads=int(heads), num_buckets=factors).numpy()
    np.testing.assert_array_equal(got, brute_force(inputs, heads, factors))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("heads", "size", "rounds", "factors"),
    [(1, 1, 1, (2,)), (2, 8, 3, (16,)), (3, 5, 2, (4, 6, 2)), (2, 8, 3, ())],
)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 17)])
def test_backends_agree(backend, dtype, heads, size, rounds, factors, batch, length):
    rng = np.random.default_rng(7)
    inputs = make_inputs(rng, batch, length, heads, size, rounds, factors, dtype)
    got = BACKENDS[backend]("LSHBuckets", inputs, {"num_heads": heads, "num_buckets": factors})
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, brute_force(inputs, heads, factors))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_vector_and_ties_take_the_lowest_index(backend):
    rotations = np.ones((1, 2, 1, 3), np.float32)
    x = np.array([[[0, 0], [1, 1], [-1, -1]]], np.float32)  # scores 0; all 2; all -2
    inputs = {"query_key": x, "rotations": rotations, "attention_mask": np.ones((1, 3), np.int32)}
    got = BACKENDS[backend]("LSHBuckets", inputs, {"num_heads": 1, "num_buckets": (6,)})
    assert got.tolist() == [[[[0, 0, 3]]]]


def test_equal_tokens_share_a_bucket():
    x = torch.randn(1, 1, 16).expand(1, 40, 16)
    buckets = lsh_buckets_reference(
        x, draw_rotations(0, (2, 8, 3, 8)), torch.ones(1, 40, dtype=torch.int32), 2, [16]
    )
    assert (buckets == buckets[..., :1]).all()


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float16, 0.0003), (torch.bfloat16, 0.0019)])
def test_rounding_flips_few_buckets(dtype, rate):
    x = torch.randn(1, 4, 1024, 64, generator=torch.Generator().manual_seed(0)).transpose(1, 2).flatten(2)
    rotations = draw_rotations(0, (4, 64, 4, 32))
    mask = torch.ones(1, 1024, dtype=torch.int32)
    exact = lsh_buckets_reference(x, rotations, mask, 4, [64])
    rounded = lsh_buckets_reference(x.to(dtype), rotations, mask, 4, [64])
    flipped = (exact != rounded).float().mean().item()
    assert rate / 3 < flipped < rate * 3


def test_rotations_are_those_of_eager_and_leave_the_random_state():
    state = torch.get_rng_state()
    mine = draw_rotations(5, (2, 8, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(mine, torch.randn(2, 8, 3, 4))


def test_custom_op_passes_torch_checks():
    args = (
        torch.randn(2, 5, 16),
        draw_rotations(0, (2, 8, 3, 4)),
        torch.ones(2, 5, dtype=torch.int32),
        2,
        [8],
    )
    torch.library.opcheck(lsh_buckets, args, test_utils=("test_schema", "test_faketensor"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_native_half_storage_hashes_the_same(seed, dtype):
    """The stored vectors are exact in float32, so that the buckets are those of the reference."""
    rng = np.random.default_rng(seed)
    inputs = make_inputs(rng, 2, int(rng.integers(1, 40)), 2, 8, 3, (8, 4))
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    tensors["query_key"] = tensors["query_key"].to(dtype)
    expected = lsh_buckets_reference(**tensors, num_heads=2, num_buckets=[8, 4])
    got = NativeKernels(require_native()).lsh_buckets(*tensors.values(), 2, [8, 4])
    assert torch.equal(got, expected)
