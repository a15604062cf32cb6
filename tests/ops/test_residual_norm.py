"""ResidualNorm and FinalNorm."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from reformer_export import ops
from reformer_export.contract import DOMAIN, VERSION
from reformer_export.export import bodies
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import (
    BACKENDS,
    NATIVE_NAMES,
    REFERENCES,
    open_session,
    require_native,
    run_native_torch,
    run_reference,
)

NORMS = ("ResidualNorm", "FinalNorm")
EPSILON = {"epsilon": 1e-12}
SIZES = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 257, 1024, 1030)
UNIT = 2.0**-24
"""Half the distance of float32 numbers at 1."""


def make_inputs(rng, batch, length, size, dtype=np.float32, offset=0.0, operator="ResidualNorm"):
    """Rows around `offset`: far from zero, only a mean that is taken off before squaring keeps digits."""
    streams = {"stream": (rng.standard_normal((batch, length, size)) * 3 + offset).astype(np.float32)}
    if operator == "FinalNorm":
        other = rng.standard_normal((batch, length, size)) * 5 + offset
        streams = {"other_stream": other.astype(np.float32), **streams}
    return {
        **streams,
        "update": rng.standard_normal((batch, length, size)).astype(dtype),
        "scale": rng.standard_normal(size * len(streams)).astype(np.float32),
        "bias": rng.standard_normal(size * len(streams)).astype(np.float32),
    }


def oracle(inputs, epsilon):
    """The contract in float64 on the float32 sums: (sums, normed, what float32 arithmetic may be off).

    With n numbers of up to x, a float32 mean is off by at most (n + 8) units of x, n additions and a few
    operations after them; in units of the standard deviation that is `shift`. What differs from such a mean
    has a mean square off by shift^2, and by as many units for its own n additions.
    """
    stream_out = inputs["stream"] + inputs["update"].astype(np.float32)
    streams = [inputs["other_stream"]] if "other_stream" in inputs else []
    rows = np.concatenate([*streams, stream_out], axis=-1).astype(np.float64)
    apart = rows - rows.mean(-1, keepdims=True)
    deviation = np.sqrt((apart**2).mean(-1, keepdims=True) + epsilon)
    unit = apart / deviation
    normed = unit * inputs["scale"].astype(np.float64) + inputs["bias"]
    roundings = (rows.shape[-1] + 8) * UNIT
    shift = roundings * np.abs(rows).max(-1, keepdims=True) / deviation
    error = np.abs(inputs["scale"]) * (shift + (shift**2 + roundings) * np.abs(unit))
    return stream_out, normed, error + 4 * UNIT * (np.abs(normed) + np.abs(inputs["bias"]))


def check(got, inputs, epsilon, rounding=0.0, smallest=0.0):
    """`rounding`: of T, relative, with `smallest` the absolute one near zero."""
    stream_out, normed, error = oracle(inputs, epsilon)
    if "other_stream" not in inputs:
        np.testing.assert_array_equal(got[0], stream_out)
    assert np.all(np.abs(normed_of(got) - normed) <= error + rounding * np.abs(normed) + smallest)


def normed_of(results):
    """The normed rows among an operator's results."""
    return results[1] if isinstance(results, (list, tuple)) else results


@pytest.mark.parametrize("operator", NORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    offset=st.sampled_from([0.0, 0.0, 30.0, -1000.0]),
)
def test_every_backend_is_the_contract(operator, backend, seed, size, offset):
    rng = np.random.default_rng(seed)
    batch, length = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    inputs = make_inputs(rng, batch, length, size, offset=offset, operator=operator)
    check(BACKENDS[backend](operator, inputs, EPSILON), inputs, EPSILON["epsilon"])
    check(run_reference(operator, inputs, EPSILON), inputs, EPSILON["epsilon"])


@pytest.mark.parametrize("operator", NORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 6, 16, 40, 130])
def test_half_precision_is_rounded_once(operator, backend, size):
    inputs = make_inputs(np.random.default_rng(size), 2, 5, size, np.float16, 7.0, operator)
    got = BACKENDS[backend](operator, inputs, EPSILON)
    assert normed_of(got).dtype == np.float16
    assert operator == "FinalNorm" or got[0].dtype == np.float32
    check(got, inputs, EPSILON["epsilon"], rounding=2.0**-11, smallest=2.0**-25)


@pytest.mark.parametrize("operator", NORMS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
)
def test_native_half_storage_is_the_contract(operator, seed, size, dtype):
    rng = np.random.default_rng(seed)
    inputs = make_inputs(rng, 2, int(rng.integers(1, 9)), size, operator=operator)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    tensors["update"] = tensors["update"].to(dtype)
    inputs["update"] = tensors["update"].float().numpy()
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    name = NATIVE_NAMES[operator]
    for function in (
        getattr(NativeKernels(require_native()), name),
        REFERENCES[operator],
        getattr(ops, name),
    ):
        results = function(*tensors.values(), EPSILON["epsilon"])
        *sums, normed = results if isinstance(results, tuple) else (results,)
        assert [x.dtype for x in (*sums, normed)] == [*([torch.float32] * len(sums)), dtype]
        got = [*(x.numpy() for x in sums), normed.float().numpy()]
        check(got if sums else got[0], inputs, EPSILON["epsilon"], rounding, smallest=2.0**-25)


@pytest.mark.parametrize("operator", NORMS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(0, 3), length=st.integers(0, 80))
def test_a_row_does_not_depend_on_the_others(operator, seed, batch, length):
    """Nor on the number of threads: enough rows for two."""
    rng = np.random.default_rng(seed)
    inputs = make_inputs(rng, batch, length, int(rng.integers(1, 300)), np.float16, operator=operator)
    normed = normed_of(run_native_torch(operator, inputs, EPSILON))
    assert normed.shape == (batch, length, len(inputs["scale"]))
    for row in range(batch if length else 0):
        token = int(rng.integers(length))
        one = (slice(row, row + 1), slice(token, token + 1))
        alone = {name: x if x.ndim == 1 else x[one] for name, x in inputs.items()}
        np.testing.assert_array_equal(normed_of(run_native_torch(operator, alone, EPSILON)), normed[one])


@pytest.mark.parametrize("operator", NORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_values_normalise_to_the_bias(operator, backend):
    inputs = make_inputs(np.random.default_rng(0), 1, 3, 24, operator=operator)
    inputs["stream"][:], inputs["update"][:] = 1.25, 0.5
    if operator == "FinalNorm":
        inputs["other_stream"][:] = 1.75
    got = normed_of(BACKENDS[backend](operator, inputs, EPSILON))
    np.testing.assert_array_equal(got, np.broadcast_to(inputs["bias"], got.shape))


@pytest.mark.parametrize("operator", NORMS)
def test_epsilon_is_read_from_the_node(operator):
    inputs = make_inputs(np.random.default_rng(1), 1, 4, 20, operator=operator)
    for backend in BACKENDS.values():
        check(backend(operator, inputs, {"epsilon": 0.5}), inputs, 0.5)


def test_streams_that_others_read_are_not_written_over():
    """The native operator may work in place: ONNX Runtime must not let it where a tensor is read again."""
    nodes = [
        helper.make_node("Identity", ["stream"], ["own"]),
        helper.make_node("Neg", ["own"], ["first"]),
        *(
            helper.make_node(
                "ResidualNorm",
                [stream, update, "scale", "bias"],
                [f"sum{i}", f"normed{i}"],
                domain=DOMAIN,
                **EPSILON,
            )
            for i, (stream, update) in enumerate(
                [("first", "update"), ("first", "normed0"), ("sum1", "sum0")]
            )
        ),
    ]
    inputs = make_inputs(np.random.default_rng(2), 2, 70, 64)
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape))
        for name, value in inputs.items()
    ]
    shape = list(inputs["stream"].shape)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("sum2", "normed2")]
    graph = helper.make_graph(nodes, "chain", declared, outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    function = bodies.function_body(bodies.ResidualNorm, 18)
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    plain = open_session(model.SerializeToString()).run(None, inputs)
    native = open_session(model.SerializeToString(), str(require_native().path)).run(None, inputs)
    for expected, got in zip(plain, native, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        (operator, *case)
        for operator in NORMS
        for case in [
            (
                "update",
                np.zeros((1, 3, 5), np.float32),
                r"update has shape \[1, 3, 5\], expected \[1, 3, 4\]",
            ),
            ("stream", np.zeros((1, 3, 0), np.float32), "last dimension 0, expected at least 1"),
            ("stream", np.zeros((1, 3, 4), np.float16), "stream has dtype float16, expected float32"),
        ]
    ]
    + [
        ("ResidualNorm", "scale", np.zeros(5, np.float32), r"scale has shape \[5\], expected \[4\]"),
        ("FinalNorm", "scale", np.zeros(4, np.float32), r"FinalNorm: scale has shape \[4\], expected \[8\]"),
        ("FinalNorm", "other_stream", np.zeros((1, 2, 4), np.float32), r"\[1, 2, 4\], expected \[1, 3, 4\]"),
    ],
)
def test_native_kernels_refuse_what_does_not_fit(operator, name, value, message):
    inputs = make_inputs(np.random.default_rng(3), 1, 3, 4, operator=operator) | {name: value}
    with pytest.raises(ValueError, match=message):
        run_native_torch(operator, inputs, EPSILON)


@pytest.mark.parametrize("operator", NORMS)
def test_custom_op_passes_torch_checks(operator):
    inputs = make_inputs(np.random.default_rng(4), 2, 5, 12, operator=operator)
    tensors = [torch.from_numpy(x) for x in inputs.values()]
    custom = getattr(ops, NATIVE_NAMES[operator])
    torch.library.opcheck(custom, (*tensors, 1e-12), test_utils=("test_schema", "test_faketensor"))
