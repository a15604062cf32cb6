"""FinalNorm in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, script
from onnxscript import opset18 as op

from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def FinalNorm(  # noqa: N802
    other_stream: FLOAT, stream: FLOAT, update: FLOAT, scale: FLOAT, bias: FLOAT, epsilon: float
) -> FLOAT:
    """The contract in standard ONNX operators."""
    streams = op.Concat(other_stream, op.Add(stream, op.Cast(update, to=1)), axis=-1)
    return op.CastLike(op.LayerNormalization(streams, scale, bias, axis=-1, epsilon=epsilon), update)


@script(TRANSLATION, default_opset=op)
def final_norm_node(
    other_stream: FLOAT, stream: FLOAT, update: FLOAT, scale: FLOAT, bias: FLOAT, epsilon: float
) -> FLOAT:
    return REFORMER.FinalNorm(other_stream, stream, update, scale, bias, epsilon=epsilon)
