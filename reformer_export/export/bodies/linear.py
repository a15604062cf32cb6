"""Linear in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, INT8, script
from onnxscript import opset18 as op

from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def Linear(  # noqa: N802
    x: FLOAT, weight: INT8, scales: FLOAT, bias: FLOAT, activation: int
) -> FLOAT:
    """The contract in standard ONNX operators.

    The product is one of whole numbers, in float32: exact while its sums are below 2^24. So no row's result
    depends on others here either, in whatever order a runtime adds.
    """
    rows = op.Cast(x, to=1)
    largest = op.ReduceMax(op.Abs(rows), op.Constant(value_ints=[-1]), keepdims=1)
    unit = op.Div(largest, op.Constant(value_float=127.0))
    units = op.Where(op.Equal(unit, op.Constant(value_float=0.0)), op.Constant(value_float=1.0), unit)
    steps = op.Clip(
        op.Round(op.Div(rows, units)), op.Constant(value_float=-127.0), op.Constant(value_float=127.0)
    )
    # Not Cast: TensorRT reads int8 weights by this operator only.
    whole = op.DequantizeLinear(weight, op.Constant(value_float=1.0))
    sums = op.MatMul(steps, op.Transpose(whole, perm=[1, 0]))
    biased = op.Add(op.Mul(sums, op.Mul(units, scales)), op.Cast(bias, to=1))
    code = op.Constant(value_int=activation)
    if op.Equal(code, op.Constant(value_int=1)):
        y = op.Relu(biased)
    else:
        if op.Equal(code, op.Constant(value_int=2)):
            half = op.Mul(biased, op.Constant(value_float=0.5))
            root = op.Constant(value_float=1.4142135623730951)
            y = op.Mul(half, op.Add(op.Erf(op.Div(biased, root)), op.Constant(value_float=1.0)))
        else:
            y = op.Identity(biased)
    return op.CastLike(y, x)


@script(TRANSLATION, default_opset=op)
def linear_node(x: FLOAT, weight: INT8, scales: FLOAT, bias: FLOAT, activation: int) -> FLOAT:
    return REFORMER.Linear(x, weight, scales, bias, activation=activation)
