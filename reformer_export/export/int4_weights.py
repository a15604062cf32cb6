"""Weights in int4: what torch hands on in int8, since it has no such type, becomes int4 in the graph."""

from __future__ import annotations

import ml_dtypes
import onnx_ir as ir
from onnxscript import FLOAT, INT8, script
from onnxscript import opset18 as op

from reformer_export.export.bodies.opsets import TRANSLATION
from reformer_export.low_precision import INT4_BLOCK


@script(TRANSLATION, default_opset=op)
def dequantise_blocks_node(weight: INT8, scales: FLOAT) -> FLOAT:
    """As the exporter's own opset, 18, can say it: without blocks."""
    return op.DequantizeLinear(weight, scales, axis=0)


def pack_int4_weights(model: ir.Model) -> None:
    """Let every DequantizeLinear of the graph have blocks, and int4 weights, two in a byte, in place."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or node.domain:
            continue
        value = node.inputs[0]
        assert value is not None
        assert value.const_value is not None
        whole = value.const_value.numpy().astype(ml_dtypes.int4)
        value.const_value = ir.Tensor(whole, dtype=ir.DataType.INT4, name=value.name)
        value.dtype = ir.DataType.INT4
        node.attributes.add(ir.AttrInt64("block_size", INT4_BLOCK))
