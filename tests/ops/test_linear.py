from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.ops import linear, linear_reference
from reformer_export.ops.linear import quantise_rows, quantise_weight
from tests.ops.backends import BACKENDS, run_reference

PLAIN = ("onnxruntime-body", "onnx-reference-body")
UNIT = 2.0**-24
"""Half the distance of float32 numbers at 1."""


def make_inputs(rng, rows, size, outputs, dtype=np.float32):
    """Rows of unlike sizes: zeros, huge and tiny ones, denormal ones, and some with ties."""
    sizes = [1.0, 0.0, 1e-3, 1e4, 1e-41] if dtype == np.float32 else [1.0, 0.0, 1e-3, 1e-7]
    factors = rng.choice(sizes, (rows, 1))
    x = rng.standard_normal((rows, size)) * factors
    ties = rng.random(rows) < 0.3
    x[ties] = rng.integers(-255, 256, (ties.sum(), size)) / 2
    x[ties, 0] = 127.0  # the unit is 1: halves lie between two whole numbers
    return {
        "x": x.astype(dtype).reshape(1, rows, size),
        "weight": rng.integers(-127, 128, (outputs, size)).astype(np.int8),
        "scales": rng.random(outputs, np.float32) / 64,
        "bias": rng.standard_normal(outputs).astype(dtype),
    }


def oracle(inputs, activation):
    """The contract: float32 where it decides a rounding, sums in int64, the rest in float64; and what float32
    arithmetic may be off."""
    x = inputs["x"].astype(np.float32)
    unit = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    unit[unit == 0] = 1
    steps = np.clip(np.rint(x / unit), -127, 127).astype(np.int64)
    sums = steps @ inputs["weight"].astype(np.int64).T
    product = sums * (unit.astype(np.float64) * inputs["scales"])
    y = product + inputs["bias"].astype(np.float64)
    error = 8 * UNIT * (np.abs(product) + np.abs(inputs["bias"]).astype(np.float64)) + 1e-44
    if activation == 1:
        y = np.maximum(y, 0)
    elif activation == 2:
        y, error = torch.nn.functional.gelu(torch.from_numpy(y)).numpy(), 1.2 * error + 8 * UNIT * np.abs(y)
    return y, error


def check(got, inputs, activation, rounding=0.0, smallest=0.0):
    """`rounding`: of T, relative, with `smallest` the absolute one near zero."""
    y, error = oracle(inputs, activation)
    assert got.shape == y.shape
    assert got.dtype == inputs["x"].dtype
    assert np.all(np.abs(got - y) <= error + rounding * np.abs(y) + smallest)


@pytest.mark.parametrize("backend", PLAIN)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 9),
    size=st.sampled_from([1, 2, 3, 17, 64, 257, 1040]),
    outputs=st.sampled_from([1, 2, 5, 64]),
    activation=st.integers(0, 2),
    dtype=st.sampled_from([np.float32, np.float32, np.float16]),
)
def test_body_and_reference_are_the_contract(backend, seed, rows, size, outputs, activation, dtype):
    inputs = make_inputs(np.random.default_rng(seed), rows, size, outputs, dtype)
    rounding = (2.0**-11, 2.0**-25) if dtype == np.float16 else (0.0, 0.0)
    attributes = {"activation": activation}
    check(BACKENDS[backend]("Linear", inputs, attributes), inputs, activation, *rounding)
    check(run_reference("Linear", inputs, attributes), inputs, activation, *rounding)


@pytest.mark.parametrize("backend", PLAIN)
def test_rows_do_not_depend_on_each_other(backend):
    inputs = make_inputs(np.random.default_rng(0), 33, 257, 40)
    together = BACKENDS[backend]("Linear", inputs, {"activation": 0})
    for row in range(33):
        alone = BACKENDS[backend]("Linear", inputs | {"x": inputs["x"][:, [row]]}, {"activation": 0})
        np.testing.assert_array_equal(together[:, [row]], alone)


def test_weights_are_rounded_to_the_nearest():
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    whole, scales = quantise_weight(weight)
    assert (whole.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (7,))
    assert whole.abs().amax(1).tolist() == [127, 127, 127, 0, 127, 127, 127]
    assert ((whole * scales[:, None] - weight).abs() <= scales[:, None] * 0.500001).all()


def test_bfloat16_products_are_summed_in_float32():
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in [(3, 2, 70), (5, 70)])
    got = linear_reference(x, weight, None, None, 0)
    exact = x.double() @ weight.double().T
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-4).all()


def test_rows_of_bfloat16_are_rounded_as_they_are():
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(2)).bfloat16()
    steps, units = quantise_rows(rows)
    torch.testing.assert_close(steps * units, rows.float(), rtol=0, atol=float(units.max() / 2) * 1.0001)


def test_custom_op_passes_torch_checks():
    tensors = [torch.from_numpy(x) for x in make_inputs(np.random.default_rng(4), 5, 12, 6).values()]
    torch.library.opcheck(linear, (*tensors, 2), test_utils=("test_schema", "test_faketensor"))
