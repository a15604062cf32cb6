"""A file's dense layers in float32 as Linear nodes, for CPUs on which the operator library computes a layer
faster than ONNX Runtime, which passes over memory for product, bias and activation one after another.

The file keeps standard operators, which every runtime knows: a session makes the nodes when it opens it. Read
and written without a protobuf library, which a deployment does not have: field numbers are those of
onnx.proto.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.files import reading, resolve_inside
from reformer_export.contract import DOMAIN, LINEAR, VERSION
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY, DenseLayer, Node, find_dense_layers
from reformer_export.runtimes.wire_format import (
    BYTES,
    FIXED32,
    VARINT,
    RefusedError,
    encode_message,
    encode_number,
    encode_text,
    read_fields,
    read_packed,
)

MOST_NUMBERS: Final = 2**20
"""Of a weight: with larger ones ONNX Runtime is as fast or faster (plugins/README.md has the measurement)."""
MOST_BYTES: Final = 64 << 20
"""Of a file that is read for it, with its data, and of the weights that are written anew: a second copy of
larger ones would be felt. A small file may name one piece of its data as many weights."""

_FLOAT32: Final = 1  # onnx.TensorProto.FLOAT
_EXTERNAL: Final = 1  # onnx.TensorProto.EXTERNAL
_INT_ATTRIBUTE: Final = 2  # onnx.AttributeProto.INT


class _Message:
    """A message's fields in order: number, wire type, value of a number or content, and the whole field."""

    def __init__(self, data: memoryview) -> None:
        self.fields: list[tuple[int, int, int | memoryview, memoryview]] = []
        begin = 0
        for number, wire, first, end in read_fields(data, 0, len(data)):
            value = first if wire == VARINT else data[first:end]
            self.fields.append((number, wire, value, data[begin:end]))
            begin = end

    def contents(self, number: int) -> list[memoryview]:
        return [value for n, wire, value, _ in self.fields if n == number and not isinstance(value, int)]

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(str(value, "utf-8") for value in self.contents(number))

    def text(self, number: int) -> str:
        return next(reversed(self.texts(number)), "")

    def number(self, number: int) -> int:
        found = [value for n, _, value, _ in self.fields if n == number and isinstance(value, int)]
        return found[-1] if found else 0


def fuse_dense_layers(path: Path) -> bytes | None:
    """The graph of the .onnx file `path`, which `check_onnx_structure` let pass, with Linear nodes for its
    layers with small weights in float32; external data stays where it is.

    None where there are none, and where the file is large or no file of ours: then it is to be opened as it
    is.
    """
    data = path.with_name(f"{path.name}.data")
    if sum(each.stat().st_size for each in (path, data) if each.is_file()) > MOST_BYTES:
        return None
    with log_phase("fusing dense layers"), reading(path):
        try:
            fused, count = _fuse(memoryview(path.read_bytes()), path.parent)
        except (RefusedError, UnicodeDecodeError):
            return None  # ONNX Runtime says what is wrong
        log_fact("dense layers that the operator library computes", count)
        return fused if count else None


def _fuse(data: memoryview, folder: Path) -> tuple[bytes, int]:
    model = _Message(data)
    if len(model.contents(7)) != 1:
        raise RefusedError("a graph in parts", "one")  # which protobuf would join
    made, count = bytearray(), 0
    domains = {_Message(each).text(1) for each in model.contents(8)}
    for number, _, value, whole in model.fields:
        if number == 7 and not isinstance(value, int):
            graph, count = _fuse_graph(_Message(value), folder)
            made += encode_message(7, graph)
        else:
            made += whole
    if count and DOMAIN not in domains:
        made += encode_message(8, encode_text(1, DOMAIN) + encode_number(2, VERSION))
    made += encode_message(14, encode_text(1, PRODUCTS_KEY) + encode_text(2, "float32"))
    return bytes(made), count


def _fuse_graph(graph: _Message, folder: Path) -> tuple[bytes, int]:
    nodes = [_read_node(_Message(each)) for each in graph.contents(1)]
    tensors = {tensor.text(8): tensor for tensor in map(_Message, graph.contents(5))}
    inputs = {_Message(each).text(1) for each in graph.contents(11)}  # their initializers are defaults
    shapes = {name: _read_shape(tensor) for name, tensor in tensors.items() if name not in inputs}
    weights = {
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and tensors[name].number(2) == _FLOAT32 and 0 < shape[0] * shape[1] <= MOST_NUMBERS
    }
    uses = _count_uses(graph)
    found = find_dense_layers(nodes, shapes, weights, uses)
    copied = {_weight_name(layer): 4 * math.prod(shapes[layer.weight]) for layer in found}
    if sum(copied.values()) > MOST_BYTES:
        return b"", 0
    values = {
        layer.weight: _read_values(tensors[layer.weight], shapes[layer.weight], folder) for layer in found
    }
    layers = [layer for layer in found if values[layer.weight] is not None and not uses[_weight_name(layer)]]
    uses.subtract(layer.weight for layer in layers)
    unused = {layer.weight for layer in layers if not uses[layer.weight]}
    made = {layer.nodes[0]: _make_node(layer) for layer in layers}
    taken = {index for layer in layers for index in layer.nodes}
    fields, index = bytearray(), 0
    for number, _, value, whole in graph.fields:
        if number == 1:
            fields += made.get(index, b"" if index in taken else whole)
            index += 1
        elif number != 5 or isinstance(value, int) or _Message(value).text(8) not in unused:
            fields += whole
    for name, layer in {_weight_name(layer): layer for layer in layers}.items():
        weight: Any = values[layer.weight]
        fields += _make_weight(name, weight if layer.is_turned else weight.T)
    return bytes(fields), len(layers)


def _read_node(node: _Message) -> Node:
    attributes: dict[str, float | bytes] = {}
    for each in map(_Message, node.contents(5)):
        for number, wire, value, _ in each.fields:
            if number == 2 and wire == FIXED32 and not isinstance(value, int):
                attributes[each.text(1)] = struct.unpack("<f", value)[0]
            elif (number, wire) in ((3, VARINT), (4, BYTES)):
                attributes[each.text(1)] = value if isinstance(value, int) else bytes(value)
    output = next(iter(node.texts(2)), "")
    return Node(node.text(7), node.text(4), node.texts(1), output, attributes)


def _read_shape(tensor: _Message) -> tuple[int, ...]:
    shape: list[int] = []
    for number, _, value, _ in tensor.fields:
        if number == 1:
            shape += [value] if isinstance(value, int) else read_packed(value, 0, len(value), 64)
    return tuple(shape)


def _read_values(tensor: _Message, shape: tuple[int, ...], folder: Path) -> NDArray[np.float32] | None:
    """None where they are stored in a way that no exporter of ours uses."""
    size = 4 * shape[0] * shape[1]
    place = {each.text(1): each.text(2) for each in map(_Message, tensor.contents(13))}
    raw: memoryview | bytes = next(reversed(tensor.contents(9)), b"")
    if tensor.number(14) == _EXTERNAL:
        try:
            path = resolve_inside(folder, place["location"])
            if not path.is_file():  # opening a pipe would wait for a writer
                return None
            with path.open("rb") as file:
                file.seek(int(place.get("offset", 0)))
                raw = file.read(size)
        except (KeyError, ValueError, OverflowError, OSError):
            return None  # ONNX Runtime says what is wrong
    return np.frombuffer(raw, "<f4").reshape(shape) if len(raw) == size else None


def _count_uses(graph: _Message) -> Counter[str]:
    """How often each value is read, in subgraphs too, or put out."""
    uses = Counter(_Message(each).text(1) for each in graph.contents(12))
    for node in map(_Message, graph.contents(1)):
        uses.update(node.texts(1))
        for attribute in map(_Message, node.contents(5)):
            for inner in (*attribute.contents(6), *attribute.contents(11)):
                uses.update(_count_uses(_Message(inner)))
    return uses


def _weight_name(layer: DenseLayer) -> str:
    """Of the initializer [N, K], which layers share that share their weight."""
    return f"{layer.weight}.{'as_is' if layer.is_turned else 'turned'}.float32"


def _make_node(layer: DenseLayer) -> bytes:
    activation = encode_text(1, "activation") + encode_number(3, layer.activation)
    operands = (layer.x, _weight_name(layer), "", layer.bias or "")
    return encode_message(
        1,
        b"".join(encode_text(1, name) for name in operands)
        + encode_text(2, layer.output)
        + encode_text(3, layer.output)
        + encode_text(4, LINEAR.name)
        + encode_message(5, activation + encode_number(20, _INT_ATTRIBUTE))
        + encode_text(7, DOMAIN),
    )


def _make_weight(name: str, values: NDArray[np.float32]) -> bytes:
    dims = b"".join(encode_number(1, size) for size in values.shape)
    content = np.ascontiguousarray(values).tobytes()
    kind = encode_number(2, _FLOAT32) + encode_text(8, name)
    return encode_message(5, dims + kind + encode_message(9, content))
