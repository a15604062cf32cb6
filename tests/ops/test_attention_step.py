"""LSHAttentionStep and LocalAttentionStep: the last rows of the whole operators, whatever computes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import ops
from reformer_export.errors import InputError
from tests.ops.backends import BACKENDS, run_reference
from tests.ops.step_cases import WHOLE, draw_attributes, expected_caches, expected_output, make_case

OPERATORS = tuple(WHOLE)


def check(operator, case, results, tolerance=5e-6):
    """`tolerance`: of the whole operators' own tests."""
    expected = expected_output(operator, case)
    assert results[0].dtype == expected.dtype
    np.testing.assert_allclose(
        results[0].astype(np.float32), expected.astype(np.float32), atol=tolerance, rtol=tolerance
    )
    for got, cache in zip(results[1:], expected_caches(operator, case), strict=True):
        np.testing.assert_array_equal(got, cache)


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_reference_is_the_last_row(operator, seed):
    case = make_case(np.random.default_rng(seed), operator)
    check(operator, case, run_reference(operator, case.inputs, case.attributes))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", ["onnxruntime-body", "native-onnxruntime", "native-torch"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_backends_are_the_last_row(backend, operator, seed):
    case = make_case(np.random.default_rng(seed), operator)
    check(operator, case, BACKENDS[backend](operator, case.inputs, case.attributes))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("seed", range(3))
def test_backends_agree(backend, operator, dtype, seed):
    case = make_case(np.random.default_rng(seed), operator, dtype, longest=30)
    tolerance = 5e-6 if dtype == np.float32 else 2e-3  # a rounding of the result to float16
    check(operator, case, BACKENDS[backend](operator, case.inputs, case.attributes), tolerance)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("chunk", "before", "multiple", "dense"),
    [(4, 1, 8, 4), (4, 3, 4, 4), (5, 0, 15, 5), (6, 2, 12, 6), (4, 1, 8, 20), (6, 2, 12, 1000)],
)
def test_every_length_through_chunk_and_padding_borders(operator, chunk, before, multiple, dense):
    """One sequence grown a token at a time from nothing on the state that the steps themselves leave."""
    rng = np.random.default_rng(chunk)
    attributes = draw_attributes(rng, operator) | {"chunk_length": chunk, "num_chunks_before": before}
    attributes |= {"padding_multiple": multiple, "padding_threshold": min(chunk, multiple)}
    if operator == "LSHAttentionStep":
        attributes["dense_threshold"] = dense
    longest = 3 * multiple + 2
    whole = make_case(rng, operator, attributes=attributes, lengths=([longest], [1]))
    caches = [value for name, value in whole.inputs.items() if name.startswith("past_")]
    caches = [np.zeros_like(cache) for cache in caches]
    names = [name for name in whole.inputs if name.startswith("past_")]
    for held in range(longest):
        inputs = dict(whole.inputs)
        sequence = whole.sequences[0]
        for name, value in sequence.items():
            fresh = value[..., held : held + 1] if name == "buckets" else value[:, held : held + 1]
            inputs["new_buckets" if name == "buckets" else name] = fresh
        inputs |= dict(zip(names, caches, strict=True))
        inputs |= {"lengths": np.array([held], np.int32), "new_lengths": np.array([1], np.int32)}
        short = {
            name: value[..., : held + 1] if name == "buckets" else value[:, : held + 1]
            for name, value in sequence.items()
        }
        mask = {"attention_mask": np.ones((1, held + 1), np.int32)}
        expected = run_reference(WHOLE[operator], short | mask, attributes)[:, -1:]
        for backend in ("native-torch", "native-onnxruntime"):
            results = BACKENDS[backend](operator, inputs, attributes)
            np.testing.assert_allclose(results[0], expected, atol=5e-6, rtol=5e-6)
        caches = results[1:]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (([3, 4], [1, 2]), "2 new tokens on 4 held ones"),
        (([-1, 4], [1, 1]), "-1 tokens held"),
        (([0, 4], [4, 1]), "4 new tokens"),
        (([0, 4], [-1, 1]), "-1 new tokens"),
    ],
)
def test_reference_refuses_lengths(operator, lengths, message):
    case = make_case(np.random.default_rng(0), operator, lengths=([5, 4], [1, 1]))
    inputs = case.inputs | {
        name: np.array(value, np.int32)
        for name, value in zip(("lengths", "new_lengths"), lengths, strict=True)
    }
    inputs = widen(inputs)
    with pytest.raises(InputError, match=message):
        run_reference(operator, inputs, case.attributes)


def widen(inputs):
    """Room for three new tokens."""
    made = dict(inputs)
    for name in ("query_key", "query", "key", "value"):
        if name in made:
            made[name] = np.repeat(made[name][:, :1], 3, axis=1)
    if "new_buckets" in made:
        made["new_buckets"] = np.repeat(made["new_buckets"][..., :1], 3, axis=3)
    return made


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_chunks_after", 1),
        ("is_causal", False),
        ("padding_multiple", 3),
        ("padding_threshold", 100),
    ],
)
def test_reference_refuses_what_no_step_can_be(operator, name, value):
    attributes = draw_attributes(np.random.default_rng(1), operator) | {"chunk_length": 4}
    attributes |= {"padding_multiple": 4, "padding_threshold": 4}
    attributes |= {"dense_threshold": 4} if operator == "LSHAttentionStep" else {}
    case = make_case(np.random.default_rng(0), operator, attributes=attributes)
    with pytest.raises(InputError, match="a step"):
        run_reference(operator, case.inputs, attributes | {name: value})


@pytest.mark.parametrize("operator", OPERATORS)
def test_custom_op_passes_torch_checks(operator):
    case = make_case(np.random.default_rng(3), operator)
    function = {
        "LSHAttentionStep": ops.lsh_attention_step,
        "LocalAttentionStep": ops.local_attention_step,
    }[operator]
    args = (*(torch.from_numpy(value) for value in case.inputs.values()), *case.attributes.values())
    torch.library.opcheck(function, args, test_utils=("test_schema", "test_faketensor"))
    assert math.isfinite(float(function(*args)[0].sum()))
