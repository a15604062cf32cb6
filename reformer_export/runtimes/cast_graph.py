"""A graph of one node, Cast. A deployment has no package `onnx`: its bytes are written here."""

from __future__ import annotations

from typing import Final

from reformer_export.runtimes.wire_format import encode_message, encode_number, encode_text

ELEMENT_TYPES: Final = {
    "tensor(float)": 1,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(float16)": 10,
    "tensor(bfloat16)": 16,
}
"""onnx.TensorProto.DataType, by ONNX Runtime's names."""

CAST_INPUT: Final = "x"
CAST_OUTPUT: Final = "y"

_IR_VERSION: Final = 8
_OPSET: Final = 13
"""The first whose Cast knows bfloat16."""
_INT_ATTRIBUTE: Final = 2  # onnx.AttributeProto.INT


def cast_model(source: str, target: str) -> bytes:
    """An onnx.ModelProto of y = Cast(x), of any shape, from and to types of `ELEMENT_TYPES`."""
    to = encode_text(1, "to") + encode_number(3, ELEMENT_TYPES[target]) + encode_number(20, _INT_ATTRIBUTE)
    node = (
        encode_text(1, CAST_INPUT)
        + encode_text(2, CAST_OUTPUT)
        + encode_text(4, "Cast")
        + encode_message(5, to)
    )
    graph = (
        encode_message(1, node)
        + encode_text(2, "cast")
        + encode_message(11, _value(CAST_INPUT, source))
        + encode_message(12, _value(CAST_OUTPUT, target))
    )
    opset = encode_text(1, "") + encode_number(2, _OPSET)
    return encode_number(1, _IR_VERSION) + encode_message(7, graph) + encode_message(8, opset)


def _value(name: str, element_type: str) -> bytes:
    """onnx.ValueInfoProto of a tensor without a shape."""
    tensor = encode_number(1, ELEMENT_TYPES[element_type])
    return encode_text(1, name) + encode_message(2, encode_message(1, tensor))
