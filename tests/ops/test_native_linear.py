"""Linear's CPU kernels in sessions and through the C interface, against the PyTorch reference."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from reformer_export.ops import linear_reference
from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import BACKENDS, require_native, run_reference
from tests.ops.test_linear import check, make_inputs

NATIVE = ("native-onnxruntime", "native-torch")


def require_products(kind):
    """The library, if Linear multiplies weights of that type on this processor."""
    found = require_native()
    if getattr(found, f"{kind}_products") is None:
        pytest.skip(f"this processor has no {kind} products that Linear uses")
    return found


@pytest.fixture(scope="module")
def library():
    return require_products("int8")


@pytest.mark.parametrize("backend", NATIVE)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([0, 1, 2, 13, 33, 100]),
    size=st.sampled_from([1, 2, 3, 17, 64, 257, 1040]),
    outputs=st.sampled_from([1, 2, 5, 31, 64, 65]),
    activation=st.integers(0, 2),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_kernels_are_the_contract(library, backend, seed, rows, size, outputs, activation, dtype):
    inputs = make_inputs(np.random.default_rng(seed), rows, size, outputs, dtype)
    attributes = {"activation": activation}
    got = BACKENDS[backend]("Linear", inputs, attributes)
    check(got, inputs, activation, *((2.0**-11, 2.0**-25) if dtype == np.float16 else (0.0, 0.0)))
    if activation < 2:  # the reference's order of roundings, to the bit
        np.testing.assert_array_equal(got, run_reference("Linear", inputs, attributes))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("backend", NATIVE)
def test_what_is_not_finite_stays_in_its_row_or_output(library, backend, dtype):
    inputs = make_inputs(np.random.default_rng(6), 6, 40, 35, dtype)
    inputs["bias"][[3, 4, 34]] = np.inf, np.nan, -np.inf
    inputs["x"][0, [1, 4], [0, 39]] = np.nan, -np.inf
    for activation in (0, 1):
        attributes = {"activation": activation}
        got = BACKENDS[backend]("Linear", inputs, attributes)
        np.testing.assert_array_equal(got, run_reference("Linear", inputs, attributes))


def make_session(library, inputs, constant, rank=3, activation=0, entries=()):
    """Linear in a session, its operands constants or inputs, x of any rank; `entries` configure it."""
    operands = {name: value for name, value in inputs.items() if name not in ("x", "")}
    declared = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"d{i}" for i in range(rank)])]
    initializers = [numpy_helper.from_array(value, name) for name, value in operands.items()] * constant
    if not constant:
        declared += [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in operands.items()
        ]
    node = helper.make_node("Linear", list(inputs), ["y"], domain="reformer", activation=activation)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"e{i}" for i in range(rank)])
    graph = helper.make_graph([node], "linear", declared, [y], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("reformer", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in entries:
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(str(library.path))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_a_row_is_the_same_alone_and_in_any_batch(library):
    inputs = make_inputs(np.random.default_rng(0), 300, 256, 96)
    session = make_session(library, inputs, constant=True, activation=2)
    together = session.run(None, {"x": inputs["x"]})[0]
    folded = session.run(None, {"x": inputs["x"].reshape(6, 50, 256)})[0]
    np.testing.assert_array_equal(folded.reshape(together.shape), together)
    for row in range(0, 300, 17):
        alone = session.run(None, {"x": inputs["x"][:, [row]]})[0]
        np.testing.assert_array_equal(alone, together[:, [row]])


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_x_may_have_any_rank(library, rank):
    inputs = make_inputs(np.random.default_rng(1), 24, 30, 7)
    shape = {1: (30,), 2: (24, 30), 5: (2, 1, 3, 4, 30)}[rank]
    x = inputs["x"].reshape(-1, 30)[: 1 if rank == 1 else None].reshape(shape)
    expected = run_reference("Linear", inputs | {"x": x}, {"activation": 0})
    for constant in (True, False):
        session = make_session(library, inputs, constant, rank)
        feeds = {"x": x} if constant else inputs | {"x": x}
        np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


def test_shapes_that_do_not_fit_are_refused(library):
    inputs = make_inputs(np.random.default_rng(2), 3, 8, 5)
    session = make_session(library, inputs, constant=True)
    with pytest.raises(Exception, match=r"x has shape \[3, 9\], expected \[\*, 8\]"):
        session.run(None, {"x": np.zeros((1, 3, 9), np.float32)})
    with pytest.raises(Exception, match=r"scales has shape \[4\], expected \[5\]"):
        make_session(library, inputs | {"scales": np.zeros(4, np.float32)}, constant=True)
    with pytest.raises(Exception, match="activation is 3, expected 0 to 2"):
        make_session(library, inputs, constant=True, activation=3).run(None, {"x": inputs["x"]})


def test_a_session_may_leave_it_out(library):
    """As one on CUDA does, where a body without a kernel runs on the GPU."""
    inputs = make_inputs(np.random.default_rng(5), 2, 8, 5)
    with pytest.raises(Exception, match="is not a registered function/op"):
        make_session(library, inputs, constant=True, entries=[("reformer.linear", "0")])
    make_session(library, inputs, constant=True, entries=[("reformer.linear", "1")])


def test_bfloat16_weights_are_summed_in_float32():
    kernels = NativeKernels(require_products("bfloat16"))
    generator = torch.Generator().manual_seed(4)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in [(3, 20, 70), (33, 70)])
    bias = torch.randn(33, generator=generator)
    exact = x.double() @ weight.double().T + bias.double()
    size = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    got = kernels.linear(x.float(), weight, None, bias, 0)
    assert ((got.double() - exact).abs() <= 70 * 2.0**-23 * size).all()
    rounded = kernels.linear(x, weight, None, bias.bfloat16(), 1)
    wanted = torch.relu(exact - bias.double() + bias.bfloat16().double())
    assert ((rounded.double() - wanted).abs() <= 2.0**-8 * wanted.abs() + 70 * 2.0**-23 * size).all()
    assert torch.equal(kernels.linear(x[1:2, 5:6].float(), weight, None, bias, 0), got[1:2, 5:6])


@pytest.fixture(scope="module")
def float32_library():
    return require_products("float32")


def draw_float32(rng, rows, size, outputs, has_bias):
    inputs = {
        "x": rng.standard_normal((1, rows, size)).astype(np.float32),
        "weight": rng.standard_normal((outputs, size)).astype(np.float32),
        "": np.zeros(0, np.float32),
    }
    if has_bias:
        inputs["bias"] = rng.standard_normal(outputs).astype(np.float32)
    return inputs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([0, 1, 2, 11, 13, 33, 97, 200]),
    size=st.sampled_from([1, 2, 15, 16, 17, 64, 257, 1040]),
    outputs=st.sampled_from([1, 5, 31, 32, 33, 64, 70]),
    activation=st.integers(0, 2),
    has_bias=st.booleans(),
)
def test_float32_weights(float32_library, seed, rows, size, outputs, activation, has_bias):
    """Against float64, within what sums of float32 may be off; and a row alone, to the bit."""
    inputs = draw_float32(np.random.default_rng(seed), rows, size, outputs, has_bias)
    x, weight = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["weight"])
    bias = torch.from_numpy(inputs["bias"]) if has_bias else None
    got = NativeKernels(float32_library).linear(x, weight, None, bias, activation)
    before = linear_reference(x.double(), weight.double(), None, bias, 0)
    exact = linear_reference(x.double(), weight.double(), None, bias, activation)
    # A rounding a term and one of the result; gelu has a slope of 1.13 at most, and an error function that is
    # off by 4e-7, which x / 2 multiplies (as in plugins/tests/linear_call.cc).
    allowed = 2.0**-23 * (size * (x.double().abs() @ weight.double().abs().T) + before.abs()) + 1e-36
    if activation == 2:
        allowed = 1.2 * allowed + 3e-7 * before.abs()
    assert ((got - exact).abs() <= allowed).all()
    assert ((got - linear_reference(x, weight, None, bias, activation)).abs() <= 2 * allowed).all()
    if rows:
        row = seed % rows
        alone = NativeKernels(float32_library).linear(x[:, row : row + 1], weight, None, bias, activation)
        assert torch.equal(alone, got[:, row : row + 1])


@pytest.mark.parametrize("constant", [True, False])
def test_float32_weights_in_a_session(float32_library, constant):
    inputs = draw_float32(np.random.default_rng(7), 300, 256, 96, has_bias=True)
    operands = {name: value for name, value in inputs.items() if name}
    session = make_session(float32_library, inputs, constant, activation=1)
    feeds = {"x": inputs["x"]} if constant else operands
    got = session.run(None, feeds)[0]
    tensors = [torch.from_numpy(operands[name]) for name in ("x", "weight", "bias")]
    kernels = NativeKernels(float32_library)
    np.testing.assert_array_equal(got, kernels.linear(tensors[0], tensors[1], None, tensors[2], 1))
