from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from reformer_export.contract import DOMAIN, VERSION
from reformer_export.export import bodies
from reformer_export.ops import residual_norm, residual_norm_reference
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import BACKENDS, open_session, require_native, run_reference

EPSILON = {"epsilon": 1e-12}
SIZES = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 257, 1024, 1030)
UNIT = 2.0**-24
"""Half the distance of float32 numbers at 1."""


def make_inputs(rng, batch, length, size, dtype=np.float32, offset=0.0):
    """Rows around `offset`: far from zero, only a mean that is taken off before squaring keeps digits."""
    return {
        "stream": (rng.standard_normal((batch, length, size)) * 3 + offset).astype(np.float32),
        "update": rng.standard_normal((batch, length, size)).astype(dtype),
        "scale": rng.standard_normal(size).astype(np.float32),
        "bias": rng.standard_normal(size).astype(np.float32),
    }


def oracle(inputs, epsilon):
    """The contract in float64 on the float32 sums: (stream_out, normed, what float32 arithmetic may be off).

    With n numbers of up to x, a float32 mean is off by at most (n + 8) units of x, n additions and a few
    operations after them; in units of the standard deviation that is `shift`. What differs from such a mean
    has a mean square off by shift^2, and by as many units for its own n additions.
    """
    stream_out = inputs["stream"] + inputs["update"].astype(np.float32)
    rows = stream_out.astype(np.float64)
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
    np.testing.assert_array_equal(got[0], stream_out)
    assert np.all(np.abs(got[1] - normed) <= error + rounding * np.abs(normed) + smallest)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    offset=st.sampled_from([0.0, 0.0, 30.0, -1000.0]),
)
def test_every_backend_is_the_contract(backend, seed, size, offset):
    rng = np.random.default_rng(seed)
    inputs = make_inputs(rng, int(rng.integers(1, 4)), int(rng.integers(1, 9)), size, offset=offset)
    check(BACKENDS[backend]("ResidualNorm", inputs, EPSILON), inputs, EPSILON["epsilon"])
    check(run_reference("ResidualNorm", inputs, EPSILON), inputs, EPSILON["epsilon"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 6, 16, 40, 130])
def test_half_precision_is_rounded_once(backend, size):
    inputs = make_inputs(np.random.default_rng(size), 2, 5, size, np.float16, offset=7.0)
    got = BACKENDS[backend]("ResidualNorm", inputs, EPSILON)
    assert (got[0].dtype, got[1].dtype) == (np.float32, np.float16)
    check(got, inputs, EPSILON["epsilon"], rounding=2.0**-11, smallest=2.0**-25)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
)
def test_native_half_storage_is_the_contract(seed, size, dtype):
    rng = np.random.default_rng(seed)
    inputs = make_inputs(rng, 2, int(rng.integers(1, 9)), size)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    tensors["update"] = tensors["update"].to(dtype)
    inputs["update"] = tensors["update"].float().numpy()
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    for function in (NativeKernels(require_native()).residual_norm, residual_norm_reference, residual_norm):
        stream_out, normed = function(*tensors.values(), EPSILON["epsilon"])
        assert (stream_out.dtype, normed.dtype) == (torch.float32, dtype)
        got = [stream_out.numpy(), normed.float().numpy()]
        check(got, inputs, EPSILON["epsilon"], rounding, smallest=2.0**-25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_values_normalise_to_the_bias(backend):
    inputs = make_inputs(np.random.default_rng(0), 1, 3, 24)
    inputs["stream"][:], inputs["update"][:] = 1.25, 0.5
    got = BACKENDS[backend]("ResidualNorm", inputs, EPSILON)
    np.testing.assert_array_equal(got[1], np.broadcast_to(inputs["bias"], (1, 3, 24)))


def test_epsilon_is_read_from_the_node():
    inputs = make_inputs(np.random.default_rng(1), 1, 4, 20)
    for backend in BACKENDS.values():
        check(backend("ResidualNorm", inputs, {"epsilon": 0.5}), inputs, 0.5)


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
    ("name", "value", "message"),
    [
        ("update", np.zeros((1, 3, 5), np.float32), r"update has shape \[1, 3, 5\], expected \[1, 3, 4\]"),
        ("scale", np.zeros(5, np.float32), r"scale has shape \[5\], expected \[4\]"),
        ("stream", np.zeros((1, 3, 0), np.float32), "last dimension 0, expected at least 1"),
        ("stream", np.zeros((1, 3, 4), np.float16), "stream has dtype float16, expected float32"),
    ],
)
def test_native_kernels_refuse_what_does_not_fit(name, value, message):
    inputs = make_inputs(np.random.default_rng(3), 1, 3, 4) | {name: value}
    tensors = [torch.from_numpy(x) for x in inputs.values()]
    with pytest.raises(ValueError, match=message):
        NativeKernels(require_native()).residual_norm(*tensors, 1e-12)


def test_custom_op_passes_torch_checks():
    tensors = [torch.from_numpy(x) for x in make_inputs(np.random.default_rng(4), 2, 5, 12).values()]
    torch.library.opcheck(residual_norm, (*tensors, 1e-12), test_utils=("test_schema", "test_faketensor"))
