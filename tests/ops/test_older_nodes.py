"""Nodes of files that were written before an attribute was: the native operators give it its default."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from reformer_export.contract import NO_SELF_LOGIT, SELF_LOGIT
from tests.ops import attention_cases, step_cases
from tests.ops.backends import OUTPUT_NAMES, make_model, open_session, require_native, run_native_torch

LSH = {"self_logit": SELF_LOGIT, "dense_threshold": 8}
LOCAL = {"self_logit": NO_SELF_LOGIT, "wraps": True}
DEFAULTS = {
    "LSHAttention": LSH,
    "LocalAttention": LOCAL,
    "LSHAttentionStep": LSH,
    "LocalAttentionStep": LOCAL,
}
"""Of chunks of 8 tokens."""


def make_case(operator):
    """(inputs, attributes)."""
    rng = np.random.default_rng(4)
    if operator in step_cases.WHOLE:
        attributes = step_cases.draw_attributes(rng, operator) | {"num_chunks_before": 1}
        attributes |= {"chunk_length": 8, "padding_multiple": 8, "padding_threshold": 8} | DEFAULTS[operator]
        case = step_cases.make_case(rng, operator, attributes=attributes, lengths=([3, 7, 40], [1, 1, 1]))
        return case.inputs, attributes
    inputs, attributes = attention_cases.make_case(rng, operator, max_length=60)
    return inputs, attributes | {"chunk_length": 8, "padding_multiple": 8, "padding_threshold": 8}


def open_node(operator, inputs, attributes, changes):
    """A session of the native operator's node, with the attributes in `changes` and without a body."""
    model = make_model(operator, inputs, attributes)
    del model.functions[:]
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name not in DEFAULTS[operator]]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in changes.items())
    return open_session(model.SerializeToString(), str(require_native().path))


@pytest.mark.parametrize("operator", DEFAULTS)
def test_what_is_missing_has_its_default(operator):
    inputs, attributes = make_case(operator)
    got = open_node(operator, inputs, attributes, {}).run(OUTPUT_NAMES[operator], inputs)
    expected = run_native_torch(operator, inputs, attributes | DEFAULTS[operator])
    for one, other in zip(got, expected if isinstance(expected, list) else [expected], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("operator", DEFAULTS)
def test_what_is_given_is_read(operator):
    inputs, attributes = make_case(operator)
    other = {"self_logit": 2.5} | ({"dense_threshold": 24} if "LSH" in operator else {"wraps": False})
    got = open_node(operator, inputs, attributes, other).run(OUTPUT_NAMES[operator], inputs)
    expected = run_native_torch(operator, inputs, attributes | other)
    for one, wanted in zip(got, expected if isinstance(expected, list) else [expected], strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize(
    ("operator", "wrong", "message"),
    [
        ("LSHAttention", {"self_logit": "low"}, "self_logit is missing or no float32"),
        ("LSHAttention", {"self_logit": 5}, "self_logit is missing or no float32"),
        ("LSHAttention", {"dense_threshold": 8.0}, "dense_threshold is missing or no integer"),
        ("LocalAttention", {"wraps": 0.0}, "wraps is missing or no integer"),
        ("LocalAttentionStep", {"wraps": 2**40}, "wraps is 1099511627776, expected a 32-bit integer"),
    ],
)
def test_a_value_of_another_type_is_no_missing_one(operator, wrong, message):
    inputs, attributes = make_case(operator)
    with pytest.raises(RuntimeException, match=message):
        open_node(operator, inputs, attributes, wrong)


@pytest.mark.parametrize("operator", DEFAULTS)
@pytest.mark.parametrize("value", [float("nan"), -float("inf"), -1e9, 2e8])
def test_kernels_refuse_what_would_not_outweigh_a_masked_key(operator, value):
    inputs, attributes = make_case(operator)
    expected = r"expected -1e\+08 to 1e\+08" + ("" if "LSH" in operator else ", or infinity")
    with pytest.raises(ValueError, match=f"self_logit is .*, {expected}"):
        run_native_torch(operator, inputs, attributes | DEFAULTS[operator] | {"self_logit": value})
