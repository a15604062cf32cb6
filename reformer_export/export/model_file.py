"""A graph and its weights -> an .onnx file, checked; of the weights one tensor at a time is copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import onnx
import onnx_ir as ir

from reformer_export.errors import ExportError

_STREAMED_ABOVE: Final = 1024
"""Bytes; smaller tensors, in which shapes and indices are, stay in the graph while it is checked."""
_ALIGNMENT: Final = 64
"""Bytes: of a cache line."""

# onnx.proto, and protobuf's wire format: a field of bytes is tagged by its number, with 2 in the last 3 bits.
_GRAPH: Final = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER: Final = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA: Final = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
_LENGTH_DELIMITED: Final = 2


def save_model(model: ir.Model, path: Path, external_data: str | None = None) -> None:
    """Check `model` and write it to `path` (weights to the file `external_data` beside it, if given).

    Raises:
        ExportError: the ONNX checker refuses it.
    """
    with _without_weights(model) as weights:
        proto = ir.serde.serialize_model(model)
    large = [tensor for tensor in proto.graph.initializer if tensor.name in weights]
    for tensor in large:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    _check(path, _with_weights_as_inputs(proto, weights))
    if external_data is not None and weights:
        weights |= _write_data(path.with_name(external_data), weights)
    for tensor in large:
        if isinstance(weights[tensor.name], ir.ExternalTensor):
            _refer(tensor, weights.pop(tensor.name))
    with path.open("wb") as stream:
        _write_model(stream, proto, weights)


def weights_nbytes(model: ir.Model) -> int:
    """Bytes of all initialisers."""
    return sum(_nbytes(value.const_value) for value in model.graph.initializers.values())


def _nbytes(tensor: Any) -> int:
    return 0 if tensor is None else int(tensor.nbytes)


@contextmanager
def _without_weights(model: ir.Model) -> Iterator[dict[str, Any]]:
    """The large initialisers of `model` by name, which are references to nowhere in it in the block."""
    large = [x for x in model.graph.initializers.values() if _nbytes(x.const_value) > _STREAMED_ABOVE]
    weights = {str(value.name): value.const_value for value in large}
    try:
        for value in large:
            tensor = value.const_value
            assert tensor is not None
            value.const_value = ir.ExternalTensor(
                "", None, None, tensor.dtype, shape=tensor.shape, name=str(value.name)
            )
        yield weights
    finally:
        for value in large:
            value.const_value = weights[str(value.name)]


def _write_data(path: Path, weights: dict[str, Any]) -> dict[str, ir.ExternalTensor]:
    """The `weights` in the new file `path`, each at a multiple of _ALIGNMENT: kernels read them where the
    file is mapped, and refuse numbers at odd addresses."""
    written = {}
    with path.open("wb") as stream:
        for name, tensor in weights.items():
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            begin = stream.tell()
            stream.write(tensor.tobytes())
            place = (path.name, begin, stream.tell() - begin)
            written[name] = ir.ExternalTensor(*place, tensor.dtype, shape=tensor.shape, name=name)
    return written


def _refer(tensor: Any, place: ir.ExternalTensor) -> None:
    """Let the `onnx.TensorProto` `tensor`, which has no data, have those of `place`."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    values = {"location": place.location, "offset": place.offset or 0, "length": place.nbytes}
    for key, value in values.items():
        tensor.external_data.add(key=key, value=str(value))


def _write_model(stream: BinaryIO, model: Any, weights: dict[str, Any]) -> None:
    """Write the bytes that the `onnx.ModelProto` `model` has with the `weights` in its initialisers, which
    lack them."""
    model_parts, graph_parts = _around(model, _GRAPH), _around(model.graph, _INITIALIZER)
    tensor_parts = [_tensor_parts(tensor, weights) for tensor in model.graph.initializer]
    sizes = [len(first) + len(last) + _nbytes(weights.get(name)) for name, first, last in tensor_parts]
    heads = [_head(_INITIALIZER, size) for size in sizes]
    stream.write(model_parts[0])
    stream.write(_head(_GRAPH, sum(map(len, (*graph_parts, *heads))) + sum(sizes)))
    stream.write(graph_parts[0])
    for head, (name, first, last) in zip(heads, tensor_parts, strict=True):
        stream.write(head + first)
        if name in weights:
            data = weights[name].tobytes()
            assert len(data) == _nbytes(weights[name])  # the sizes around it are written already
            stream.write(data)
        stream.write(last)
    stream.write(graph_parts[1])
    stream.write(model_parts[1])


def _tensor_parts(tensor: Any, weights: dict[str, Any]) -> tuple[str, bytes, bytes]:
    """A tensor's name, and what stands before and after the bytes that it lacks, or all of it."""
    if tensor.name not in weights:
        return tensor.name, tensor.SerializeToString(), b""
    first, last = _around(tensor, _RAW_DATA)
    return tensor.name, first + _head(_RAW_DATA, _nbytes(weights[tensor.name])), last


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The bytes of a message's fields before `number` and after it: they are written by their numbers."""
    parts = []
    for is_before in (True, False):
        part = type(message)()
        part.CopyFrom(message)
        for field, _ in message.ListFields():
            if field.number == number or (field.number < number) != is_before:
                part.ClearField(field.name)
        parts.append(part.SerializeToString())
    return parts[0], parts[1]


def _head(number: int, size: int) -> bytes:
    """What stands before a field's `size` bytes."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the least first; all but the last byte have the highest bit set."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups[-1] |= 0x80
        groups.append(value & 0x7F)
    return bytes(groups)


def _with_weights_as_inputs(model: Any, weights: dict[str, Any]) -> Any:
    """A copy of `model` whose initialisers that lack their `weights` are inputs of their types and shapes,
    with which the checker infers as much."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            copy.graph.initializer.append(tensor)
    return copy


def _check(path: Path, model: Any) -> None:
    """ExportError when the checker refuses `model`, which is for the file `path`."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            path.name,
            f"a graph that the ONNX checker refuses ({error})",
            "a valid one",
            "please report the versions that `reformer-export doctor` prints",
        ) from error
