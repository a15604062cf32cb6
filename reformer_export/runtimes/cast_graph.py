"""A graph of one node, Cast. A deployment has no package `onnx`: its bytes are written here."""

from __future__ import annotations

from typing import Final

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
    to = _text(1, "to") + _number(3, ELEMENT_TYPES[target]) + _number(20, _INT_ATTRIBUTE)
    node = _text(1, CAST_INPUT) + _text(2, CAST_OUTPUT) + _text(4, "Cast") + _message(5, to)
    graph = (
        _message(1, node)
        + _text(2, "cast")
        + _message(11, _value(CAST_INPUT, source))
        + _message(12, _value(CAST_OUTPUT, target))
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _value(name: str, element_type: str) -> bytes:
    """onnx.ValueInfoProto of a tensor without a shape."""
    tensor = _number(1, ELEMENT_TYPES[element_type])
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Protobuf's encoding of a number that is not negative: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
