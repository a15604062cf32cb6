"""Upcast a bfloat16 ONNX model to float32, for runtimes without bfloat16 kernels. Needs `onnx`.

Every bfloat16 value is a float32 value, so the weights are unchanged; the arithmetic becomes more exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from reformer_export.errors import OutputError
from reformer_export.runtimes.onnx_file import import_onnx, read_onnx

DTYPE_ATTRIBUTES: Final = frozenset({"to", "dtype", "output_dtype", "stash_type"})
"""Integer attributes of standard operators that name an element type (ONNX operator documentation)."""
EXTERNAL_ABOVE: Final = 1024
"""Bytes: larger tensors go to external data, as a protobuf may not exceed 2 GiB."""


def upcast_model(model_path: Path, folder: Path) -> Path:
    """Write a float32 copy of the bfloat16 model `model_path` into `folder` and return its path."""
    onnx = import_onnx()
    model = read_onnx(model_path, external_data=True)
    upcast_in_place(model)
    upcast = folder / "upcast.onnx"
    try:
        onnx.save(
            model,
            str(upcast),
            save_as_external_data=True,
            location="upcast.onnx.data",
            size_threshold=EXTERNAL_ABOVE,
        )
    except OSError as error:
        raise OutputError(
            f"{folder}: got '{error}', expected room for the upcast weights; free some space, or set TMPDIR"
        ) from error
    return upcast


def upcast_in_place(model: Any) -> None:
    """Turn each bfloat16 of an `onnx.ModelProto` to float32: weights, types, casts, subgraphs, functions."""
    _upcast_graph(model.graph)
    for function in model.functions:
        _upcast_nodes(function.node)
        _upcast_values(function.value_info)
        for attribute in function.attribute_proto:
            _upcast_attribute(attribute)


def _upcast_graph(graph: Any) -> None:
    for tensor in graph.initializer:
        _upcast_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _upcast_tensor(sparse.values)
    for values in (graph.input, graph.output, graph.value_info):
        _upcast_values(values)
    _upcast_nodes(graph.node)


def _upcast_nodes(nodes: Any) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _upcast_attribute(attribute)


def _upcast_attribute(attribute: Any) -> None:
    from onnx import TensorProto

    if attribute.name in DTYPE_ATTRIBUTES and attribute.i == TensorProto.BFLOAT16:
        attribute.i = TensorProto.FLOAT
    for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
        _upcast_tensor(tensor)
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        _upcast_graph(graph)
    for type_proto in (*([attribute.tp] if attribute.HasField("tp") else []), *attribute.type_protos):
        _upcast_type(type_proto)


def _upcast_values(values: Any) -> None:
    for value in values:
        _upcast_type(value.type)


def _upcast_type(type_proto: Any) -> None:
    from onnx import TensorProto

    kind = type_proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor_type = getattr(type_proto, kind)
        if tensor_type.elem_type == TensorProto.BFLOAT16:
            tensor_type.elem_type = TensorProto.FLOAT
    elif kind in ("sequence_type", "optional_type"):
        _upcast_type(getattr(type_proto, kind).elem_type)


def _upcast_tensor(tensor: Any) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.BFLOAT16:
        return
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
