"""ResidualNorm in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, script
from onnxscript import opset18 as op

from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def ResidualNorm(  # noqa: N802
    stream: FLOAT, update: FLOAT, scale: FLOAT, bias: FLOAT, epsilon: float
) -> tuple[FLOAT, FLOAT]:
    """The contract in standard ONNX operators."""
    stream_out = op.Add(stream, op.Cast(update, to=1))
    normed = op.CastLike(op.LayerNormalization(stream_out, scale, bias, axis=-1, epsilon=epsilon), update)
    return stream_out, normed


@script(TRANSLATION, default_opset=op)
def residual_norm_node(
    stream: FLOAT, update: FLOAT, scale: FLOAT, bias: FLOAT, epsilon: float
) -> tuple[FLOAT, FLOAT]:
    stream_out, normed = REFORMER.ResidualNorm(stream, update, scale, bias, epsilon=epsilon)
    return stream_out, normed
