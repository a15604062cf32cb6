"""Operators whose body TensorRT runs: the body in each one's place, under names of its own.

TensorRT's parser reads a body anew for each node that calls it, with the names that it has, and refuses the
second layer of a name where a layer dequantises weights.
"""

from __future__ import annotations

from reformer_export.contract import DOMAIN, LINEAR
from reformer_export.runtimes.onnx_file import import_onnx


def inline_linears(model: bytes) -> bytes:
    """The bytes of a model, every Linear node its body, in which weights are read as TensorRT reads int8: by
    DequantizeLinear alone. MissingDependencyError without the package onnx."""
    onnx = import_onnx()
    from onnx.inliner import inline_selected_functions

    parsed = onnx.load_model_from_string(model)
    for function in parsed.functions:
        if (function.domain, function.name) != (DOMAIN, LINEAR.name):
            continue
        one = onnx.helper.make_node("Constant", [], ["one_for_weights"], value_float=1.0)
        (cast,) = (node for node in function.node if node.op_type == "Cast" and node.input[0] == "weight")
        read = onnx.helper.make_node("DequantizeLinear", ["weight", "one_for_weights"], cast.output)
        cast.CopyFrom(read)
        function.node.insert(0, one)
    serialised: bytes = inline_selected_functions(parsed, [(DOMAIN, LINEAR.name)]).SerializeToString()
    return serialised
