"""LSHAttention and LocalAttention share their geometry, so they share these tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.ops import local_attention, lsh_attention
from reformer_export.ops.lsh_attention import sort_positions
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.attention_cases import brute_force, make_case
from tests.ops.backends import (
    BACKENDS,
    NATIVE_NAMES,
    REFERENCES,
    make_model,
    require_native,
    run_onnxruntime_body,
    run_reference,
)

OPERATORS = ("LSHAttention", "LocalAttention")


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_reference_is_the_contract(operator, seed):
    inputs, attributes = make_case(np.random.default_rng(seed), operator, max_length=40)
    got = run_reference(operator, inputs, attributes)
    np.testing.assert_allclose(got, brute_force(operator, inputs, attributes), atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", ["onnxruntime-body", "native-onnxruntime", "native-torch"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_backends_are_the_reference(backend, operator, seed):
    inputs, attributes = make_case(np.random.default_rng(seed), operator)
    expected = run_reference(operator, inputs, attributes)
    got = BACKENDS[backend](operator, inputs, attributes)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("seed", range(4))
def test_backends_agree(operator, backend, dtype, seed):
    inputs, attributes = make_case(np.random.default_rng(seed), operator, dtype)
    expected = run_reference(operator, inputs, attributes)
    got = BACKENDS[backend](operator, inputs, attributes)
    assert got.dtype == dtype
    tolerance = 5e-6 if dtype == np.float32 else 2e-3  # a rounding of the result to float16
    np.testing.assert_allclose(got.astype(np.float32), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65])
def test_first_causal_token_attends_to_itself(backend, length):
    rng = np.random.default_rng(length)
    inputs, attributes = make_case(rng, "LSHAttention")
    heads, size = 2, 4
    x = rng.standard_normal((1, length, heads * size)).astype(np.float32)
    buckets = rng.integers(0, 4, (1, heads, 3, length)).astype(np.int32)
    inputs = {
        "query_key": x,
        "value": x,
        "buckets": buckets,
        "attention_mask": np.ones((1, length), np.int32),
    }
    attributes |= {"num_heads": heads, "chunk_length": 8, "is_causal": True}
    attributes |= {
        "padding_multiple": 8,
        "padding_threshold": 8,
        "num_chunks_before": 1,
        "num_chunks_after": 0,
        "self_logit": -1e5,
        "dense_threshold": 8,
    }
    got = BACKENDS[backend]("LSHAttention", inputs, attributes)
    # Rounded logsumexp near -1e5: the weights of the rounds sum to a little less, or more, than 1.
    np.testing.assert_allclose(got[0, 0], x[0, 0], rtol=1e-2)
    np.testing.assert_allclose(got, run_reference("LSHAttention", inputs, attributes), atol=5e-6)


def test_order_is_a_stable_sort_with_integer_keys():
    rng = np.random.default_rng(0)
    heads, rounds, length = 4, 1, 8192
    buckets = rng.integers(0, 256, (1, heads, rounds, length)).astype(np.int32)
    expected = np.argsort(buckets, axis=-1, kind="stable").reshape(1, heads, -1)
    assert np.array_equal(sort_positions(torch.from_numpy(buckets), length).numpy(), expected)
    x = rng.standard_normal((1, length, heads * 2)).astype(np.float32)
    inputs = {
        "query_key": x,
        "value": x,
        "buckets": buckets,
        "attention_mask": np.ones((1, length), np.int32),
    }
    attributes = {
        "num_heads": heads,
        "chunk_length": 64,
        "num_chunks_before": 1,
        "num_chunks_after": 0,
        "is_causal": 1,
        "padding_multiple": 64,
        "padding_threshold": 64,
        "key_norm_epsilon": 1e-6,
        "self_logit": -1e5,
        "dense_threshold": 64,
    }
    from tests.ops.backends import open_session

    body_order = _order_value_name()
    session = open_session(
        make_model("LSHAttention", inputs, attributes, extra=(body_order,)).SerializeToString()
    )
    assert np.array_equal(session.run([body_order], inputs)[0].reshape(1, heads, -1), expected)


def _order_value_name():
    """The TopK's indices in LSHAttention's body; its keys are int64 because a Cast made them so."""
    from onnx import TensorProto

    from reformer_export.export.bodies import LSHAttention

    function = LSHAttention.to_function_proto()
    (top_k,) = [node for node in function.node if node.op_type == "TopK"]
    casts = {n.output[0]: n.attribute[0].i for n in function.node if n.op_type == "Cast"}
    assert TensorProto.INT64 in casts.values()
    return top_k.output[1]


def test_equal_tokens_keep_the_position_order():
    buckets = torch.zeros(1, 2, 3, 100, dtype=torch.int32)
    order = sort_positions(buckets, 104).view(1, 2, 3, 104)
    assert torch.equal(order, torch.arange(104).expand(1, 2, 3, 104))


def test_keys_do_not_overflow_int32():
    """2,048 buckets x 65,536 tokens: bucket * length + position passes 2^31 (cases.md, facts.md)."""
    length, rng = 65536, np.random.default_rng(1)
    buckets = torch.from_numpy(rng.integers(0, 2**20, (1, 1, 1, length)).astype(np.int32))
    expected = torch.argsort(buckets.long(), dim=-1, stable=True).flatten(2)
    assert torch.equal(sort_positions(buckets, length), expected)
    x = rng.standard_normal((1, length, 2)).astype(np.float32)
    inputs = {
        "query_key": x,
        "value": x,
        "buckets": buckets.numpy(),
        "attention_mask": np.ones((1, length), np.int32),
    }
    attributes = {
        "num_heads": 1,
        "chunk_length": 64,
        "num_chunks_before": 1,
        "num_chunks_after": 0,
        "is_causal": True,
        "padding_multiple": 64,
        "padding_threshold": 64,
        "key_norm_epsilon": 1e-6,
        "self_logit": -1e5,
        "dense_threshold": 64,
    }
    got = run_onnxruntime_body("LSHAttention", inputs, attributes)
    np.testing.assert_allclose(got, run_reference("LSHAttention", inputs, attributes), atol=5e-6)


@pytest.mark.parametrize(
    ("operator", "function"), [("LSHAttention", lsh_attention), ("LocalAttention", local_attention)]
)
def test_custom_op_passes_torch_checks(operator, function):
    inputs, attributes = make_case(np.random.default_rng(3), operator)
    args = (*(torch.from_numpy(value) for value in inputs.values()), *attributes.values())
    torch.library.opcheck(function, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_native_half_storage_is_the_reference(operator, seed, dtype):
    """Half-precision storage, float32 arithmetic: what is left is the rounding of the result."""
    kernels = NativeKernels(require_native())
    inputs, attributes = make_case(np.random.default_rng(seed), operator)
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    expected = REFERENCES[operator](*tensors, *attributes.values())
    got = getattr(kernels, NATIVE_NAMES[operator])(*tensors, *attributes.values())
    tolerance = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]  # one step at 1
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
