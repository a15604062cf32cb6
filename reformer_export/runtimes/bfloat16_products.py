"""A graph's dense layers in bfloat16 as Linear nodes, for CPUs that multiply it faster than float32 (needs
`onnx`).

The file keeps standard operators, which every runtime knows: a session makes the nodes when it opens it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from reformer_export.contract import DOMAIN, LINEAR, VERSION
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY, DenseLayer, Node, find_dense_layers

_BFLOAT16: Final = 16
"""TensorProto.BFLOAT16."""


def multiply_in_bfloat16(model: Any) -> frozenset[str]:
    """Turn each product with a weight in bfloat16, its bias and its activation into one Linear node, in
    place, in an `onnx.ModelProto` whose weights are in memory.

    Returns:
        The names of the weights that Linear reads, bfloat16 [N, K], which no other node has.
    """
    graph = model.graph
    inputs = {value.name for value in graph.input}  # their initializers are defaults
    constants = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in constants}
    weights = {tensor.name for tensor in constants if tensor.data_type == _BFLOAT16 and len(tensor.dims) == 2}
    nodes = [_read_node(node) for node in graph.node]
    uses = _count_uses(graph)
    found = find_dense_layers(nodes, shapes, weights, uses)
    layers = [layer for layer in found if not uses[_weight_name(layer)]]
    if not layers:
        return frozenset()
    made = {layer.nodes[0]: _add_layer(graph, layer) for layer in layers}
    taken = {index for layer in layers for index in layer.nodes}
    kept = [made.get(i, node) for i, node in enumerate(graph.node) if i in made or i not in taken]
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=VERSION)
    model.metadata_props.add(key=PRODUCTS_KEY, value="bfloat16")
    return frozenset(_weight_name(layer) for layer in layers)


def _read_node(node: Any) -> Node:
    values = {each.name: each for each in node.attribute}
    known = {name: values[name].f for name in ("alpha", "beta") if name in values}
    known |= {name: values[name].i for name in ("transA", "transB") if name in values}
    texts = {name: values[name].s for name in ("approximate",) if name in values}
    output = node.output[0] if node.output else ""
    return Node(node.domain, node.op_type, tuple(node.input), output, {**known, **texts})


def _weight_name(layer: DenseLayer) -> str:
    return f"{layer.output}.weight.bfloat16"


def _add_layer(graph: Any, layer: DenseLayer) -> Any:
    """The Linear node, whose weight is added to the graph."""
    from onnx import helper, numpy_helper

    tensor = next(each for each in graph.initializer if each.name == layer.weight)
    bits = numpy_helper.to_array(tensor).view(np.uint16)
    bits = bits if layer.is_turned else bits.T
    name = _weight_name(layer)
    weight = graph.initializer.add(name=name, data_type=_BFLOAT16, dims=bits.shape)
    weight.raw_data = np.ascontiguousarray(bits).tobytes()
    operands = [layer.x, name, "", layer.bias or ""]
    return helper.make_node(LINEAR.name, operands, [layer.output], domain=DOMAIN, activation=layer.activation)


def _count_uses(graph: Any) -> Counter[str]:
    """How often each value is read, in subgraphs too, or put out."""
    uses = Counter(value.name for value in graph.output)
    for node in graph.node:
        uses.update(node.input)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                uses.update(_count_uses(inner))
    return uses


def _drop_unused(graph: Any) -> None:
    uses = _count_uses(graph)
    uses.update(value.name for value in graph.input)  # of a default
    kept = [tensor for tensor in graph.initializer if uses[tensor.name]]
    del graph.initializer[:]
    graph.initializer.extend(kept)
