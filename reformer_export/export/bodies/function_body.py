"""An operator's onnxscript function -> the FunctionProto that is stored in a model."""

from __future__ import annotations

from typing import Final

import onnx
from onnxscript import OnnxFunction

ALWAYS: Final = "always"
"""Name of the constant that is every loop's condition."""


def function_body(function: OnnxFunction, opset: int) -> onnx.FunctionProto:
    """The FunctionProto of `function`, for a model of opset 18 or later.

    The operators that the bodies use mean the same in all of these opsets. onnxscript leaves a loop's
    condition empty, which ONNX's reference evaluator takes for false: it is spelled out here.
    """
    proto = function.to_function_proto()
    for opset_import in proto.opset_import:
        if opset_import.domain == "":
            opset_import.version = opset
    if _set_conditions(proto.node):
        true = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
        proto.node.insert(0, onnx.helper.make_node("Constant", [], [ALWAYS], value=true))
    return proto


def _set_conditions(nodes: object) -> bool:
    """Set the empty conditions of all loops, nested ones too; whether there were any."""
    found = False
    for node in nodes:  # type: ignore[attr-defined]
        if node.op_type == "Loop" and not node.input[1]:
            node.input[1] = ALWAYS
            found = True
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _set_conditions(attribute.g.node)
    return found
