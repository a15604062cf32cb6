"""Which nodes of a graph are a dense layer, that is one node of Linear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from reformer_export.contract import GELU, RELU

PRODUCTS_KEY: Final = "reformer.products"
"""In the metadata of a graph whose dense layers became Linear nodes as it was opened: their weights' type."""
_ACTIVATIONS: Final = {"Relu": RELU, "Gelu": GELU}


@dataclass(frozen=True)
class Node:
    """A node as far as it matters here; attributes are numbers and texts only."""

    domain: str
    op_type: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, float | bytes]


@dataclass(frozen=True)
class DenseLayer:
    """y = activation(x . weight + bias), called `output`, in place of the nodes with these indices.

    `is_turned`: whether the constant `weight` is [N, K] already, as Linear has it.
    """

    nodes: tuple[int, ...]
    x: str
    weight: str
    is_turned: bool
    bias: str | None
    activation: int
    output: str


def find_dense_layers(
    nodes: Sequence[Node],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Set[str],
    uses: Counter[str],
) -> list[DenseLayer]:
    """The layers whose weight is one of the constants `weights`, which have two dimensions.

    Args:
        nodes: the graph's, in its order.
        shapes: of the graph's constants.
        weights: names of the constants that Linear shall multiply with.
        uses: how often each value is read, in subgraphs too, or put out.
    """
    readers = {name: index for index, node in enumerate(nodes) for name in node.inputs if uses[name] == 1}
    constant = weights - {node.output for node in nodes}  # a file may have a value twice
    layers = []
    for index, node in enumerate(nodes):
        layer = _read_product(index, node, shapes, constant)
        if layer is not None:
            layers.append(_add_what_follows(layer, nodes, shapes, readers))
    return layers


def _read_product(
    index: int, node: Node, shapes: Mapping[str, tuple[int, ...]], weights: Set[str]
) -> DenseLayer | None:
    """The layer of a node that multiplies with a constant of `weights`, as yet without what follows."""
    if node.domain or node.op_type not in ("MatMul", "Gemm") or not weights & set(node.inputs[1:2]):
        return None
    x, weight, *rest = node.inputs
    if node.op_type == "MatMul":
        return DenseLayer((index,), x, weight, False, None, 0, node.output)
    values = node.attributes
    bias = next((name for name in rest if name), None)
    is_turned = bool(values.get("transB", 0))
    outputs = shapes[weight][0 if is_turned else 1]
    is_plain = values.get("alpha", 1.0) == values.get("beta", 1.0) == 1.0 and not values.get("transA", 0)
    if not is_plain or (bias is not None and shapes.get(bias) != (outputs,)):
        return None
    return DenseLayer((index,), x, weight, is_turned, bias, 0, node.output)


def _add_what_follows(
    layer: DenseLayer,
    nodes: Sequence[Node],
    shapes: Mapping[str, tuple[int, ...]],
    readers: Mapping[str, int],
) -> DenseLayer:
    """The layer with the bias and the activation that alone read its result."""
    taken, bias, activation, output = list(layer.nodes), layer.bias, 0, layer.output
    outputs = shapes[layer.weight][0 if layer.is_turned else 1]
    index = readers.get(output)
    if bias is None and index is not None and (nodes[index].domain, nodes[index].op_type) == ("", "Add"):
        others = [name for name in nodes[index].inputs if name != output]
        if [shapes.get(name) for name in others] == [(outputs,)]:
            bias, output = others[0], nodes[index].output
            taken.append(index)
            index = readers.get(output)
    if index is not None and _is_activation(nodes[index]):
        activation, output = _ACTIVATIONS[nodes[index].op_type], nodes[index].output
        taken.append(index)
    return DenseLayer(tuple(taken), layer.x, layer.weight, layer.is_turned, bias, activation, output)


def _is_activation(node: Node) -> bool:
    return not node.domain and node.op_type in _ACTIVATIONS and node.attributes.get("approximate") != b"tanh"
