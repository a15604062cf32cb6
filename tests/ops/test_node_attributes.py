"""The attributes of the native operators' nodes that change what a token sees of itself and around it."""

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
RULES = {
    "LSHAttention": LSH,
    "LocalAttention": LOCAL,
    "LSHAttentionStep": LSH,
    "LocalAttentionStep": LOCAL,
}
"""Those of transformers, for chunks of 8 tokens."""


def make_case(operator):
    """(inputs, attributes)."""
    rng = np.random.default_rng(4)
    if operator in step_cases.WHOLE:
        attributes = step_cases.draw_attributes(rng, operator) | {"num_chunks_before": 1}
        attributes |= {"chunk_length": 8, "padding_multiple": 8, "padding_threshold": 8} | RULES[operator]
        case = step_cases.make_case(rng, operator, attributes=attributes, lengths=([3, 7, 40], [1, 1, 1]))
        return case.inputs, attributes
    inputs, attributes = attention_cases.make_case(rng, operator, max_length=60)
    return inputs, attributes | {"chunk_length": 8, "padding_multiple": 8, "padding_threshold": 8}


def open_node(operator, inputs, attributes, changes):
    """A session of the native operator's node, with the attributes in `changes` and without a body."""
    model = make_model(operator, inputs, attributes)
    del model.functions[:]
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name not in RULES[operator]]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in changes.items())
    return open_session(model.SerializeToString(), str(require_native().path))


@pytest.mark.parametrize("operator", RULES)
def test_what_is_missing_is_refused(operator):
    inputs, attributes = make_case(operator)
    for missing in RULES[operator]:
        given = {name: value for name, value in RULES[operator].items() if name != missing}
        with pytest.raises(RuntimeException, match=f"{missing} is missing"):
            open_node(operator, inputs, attributes, given)


@pytest.mark.parametrize("operator", RULES)
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
def test_a_value_of_another_type_is_refused(operator, wrong, message):
    inputs, attributes = make_case(operator)
    with pytest.raises(RuntimeException, match=message):
        open_node(operator, inputs, attributes, RULES[operator] | wrong)


@pytest.mark.parametrize("operator", RULES)
@pytest.mark.parametrize("value", [float("nan"), -float("inf"), -1e9, 2e8])
def test_kernels_refuse_what_would_not_outweigh_a_masked_key(operator, value):
    inputs, attributes = make_case(operator)
    expected = r"expected -1e\+08 to 1e\+08" + ("" if "LSH" in operator else ", or infinity")
    with pytest.raises(ValueError, match=f"self_logit is .*, {expected}"):
        run_native_torch(operator, inputs, attributes | RULES[operator] | {"self_logit": value})
