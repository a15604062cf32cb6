"""A bfloat16 graph for a runtime without bfloat16 kernels, with the roundings that such kernels would make.

Upcasting alone makes the arithmetic exact and would hide what bfloat16 costs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx

from reformer_export.runtimes.upcast import upcast_in_place

_MOVES: Final = frozenset(
    {"Concat", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"}
)
"""Operators that compute nothing: what they pass on is rounded already."""


def emulate_bfloat16(model: onnx.ModelProto) -> None:
    """Upcast `model` to float32 in place; what each node of its graph gave in bfloat16 is rounded to it
    still.

    Inside of a node, the function bodies of the operators included, the arithmetic is float32, as it is in
    kernels that accumulate in float32.
    """
    graph = model.graph
    rounded = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
    }
    upcast_in_place(model)
    nodes = [added for node in graph.node for added in _with_rounding(node, rounded)]
    del graph.node[:]
    graph.node.extend(nodes)


def _with_rounding(node: onnx.NodeProto, rounded: set[str]) -> Iterator[onnx.NodeProto]:
    """`node`, and a cast to bfloat16 and back after each of its outputs that is in `rounded`."""
    casts = []
    for index, name in enumerate(node.output):
        if name in rounded and node.op_type not in _MOVES:
            exact, half = f"{name}.exact", f"{name}.bfloat16"
            node.output[index] = exact
            casts.append(onnx.helper.make_node("Cast", [exact], [half], to=onnx.TensorProto.BFLOAT16))
            casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    yield node
    yield from casts
