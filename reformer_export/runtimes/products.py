"""A graph's dense layers as Linear nodes, for CPUs whose products the operator library does faster (needs
`onnx`).

The file keeps standard operators, which every runtime knows: a session makes the nodes when it opens it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Literal

import numpy as np

from reformer_export.contract import DOMAIN, GELU, LINEAR, RELU, VERSION

_ACTIVATIONS: Final = {"Relu": RELU, "Gelu": GELU}
ProductsType = Literal["float32", "bfloat16"]
_DATA_TYPES: Final = {"float32": 1, "bfloat16": 16}
"""As TensorProto numbers them."""
MOST_FLOAT32_NUMBERS: Final = 2**18
"""Of a float32 weight: with larger ones ONNX Runtime's own products are as fast, and a packed copy of the
weight would cost more than it gains (plugins/README.md)."""


def multiply_with_linear(model: Any, weights: ProductsType) -> frozenset[str]:
    """Turn each product with a weight in `weights`, its bias and its activation into one Linear node, in
    place, in an `onnx.ModelProto` whose weights are in memory.

    Of float32 only those that a bias or an activation follows: it is their passes over memory that Linear
    saves, the products alone ONNX Runtime does as fast.

    Returns:
        The names of the weights that Linear reads, [N, K], which no other node has.
    """
    graph = _Graph(model.graph, weights)
    for node in list(model.graph.node):
        graph.replace(node)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    _drop_unused(model.graph)
    if graph.weights and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=VERSION)
    return frozenset(graph.weights)


class _Graph:
    """A graph under rewriting: `nodes` are those that stay, `weights` the names of Linear's own."""

    def __init__(self, graph: Any, weights: ProductsType) -> None:
        self._graph = graph
        self._type = weights
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = _count_uses(graph)
        self._readers = {name: node for node in graph.node for name in node.input}
        self._taken: set[str] = set()  # what gave these stands in a Linear node
        self.nodes: list[Any] = []
        self.weights: set[str] = set()

    def replace(self, node: Any) -> None:
        if node.output[0] in self._taken:
            return
        product = self._read_product(node)
        if product is None:
            self.nodes.append(node)
            return
        x, weight, bias = product
        output = node.output[0]
        if bias is None:
            bias, output = self._take_bias(output, weight.shape[0])
        activation, output = self._take_activation(output)
        if self._type == "float32" and bias is None and activation == 0:
            self.nodes.append(node)
            return
        self._add(x, weight, bias, activation, output)

    def _read_product(self, node: Any) -> tuple[str, Any, str | None] | None:
        """x, the weight [N, K], and the name of its bias [N], of a node that multiplies with a constant that
        Linear shall have; else None."""
        from onnx import numpy_helper

        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            return None
        tensor = self._initializers.get(node.input[1])
        if tensor is None or not self._is_for_linear(tensor):
            return None
        bits = numpy_helper.to_array(tensor)
        if node.op_type == "MatMul":
            return node.input[0], bits.T, None
        values = {attribute.name: attribute for attribute in node.attribute}
        factors = [values[name].f for name in ("alpha", "beta") if name in values]
        is_turned = "transA" in values and values["transA"].i != 0
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        bits = bits if "transB" in values and values["transB"].i != 0 else bits.T
        if is_turned or factors != [1.0] * len(factors) or not self._is_bias(bias, bits.shape[0]):
            return None
        return node.input[0], bits, bias

    def _is_for_linear(self, tensor: Any) -> bool:
        if tensor.data_type != _DATA_TYPES[self._type] or len(tensor.dims) != 2:
            return False
        return self._type != "float32" or 0 < tensor.dims[0] * tensor.dims[1] <= MOST_FLOAT32_NUMBERS

    def _is_bias(self, name: str | None, outputs: int) -> bool:
        return name is None or (
            name in self._initializers and list(self._initializers[name].dims) == [outputs]
        )

    def _find_only_reader(self, name: str) -> Any:
        return self._readers.get(name) if self._uses[name] == 1 else None

    def _take_bias(self, output: str, outputs: int) -> tuple[str | None, str]:
        """The bias that is added to the product `output`, and what the sum is called."""
        node = self._find_only_reader(output)
        if node is None or node.op_type != "Add" or node.domain:
            return None, output
        (other,) = (name for name in node.input if name != output)
        if other not in self._initializers or not self._is_bias(other, outputs):
            return None, output
        return other, self._take(node)

    def _take_activation(self, output: str) -> tuple[int, str]:
        node = self._find_only_reader(output)
        is_known = node is not None and not node.domain and node.op_type in _ACTIVATIONS
        if not is_known or any(attribute.s == b"tanh" for attribute in node.attribute):
            return 0, output
        return _ACTIVATIONS[node.op_type], self._take(node)

    def _take(self, node: Any) -> str:
        name: str = node.output[0]
        self._taken.add(name)
        return name

    def _add(self, x: str, bits: Any, bias: str | None, activation: int, output: str) -> None:
        from onnx import helper

        name = f"{output}.weight.{self._type}"
        weight = self._graph.initializer.add(name=name, data_type=_DATA_TYPES[self._type], dims=bits.shape)
        weight.raw_data = np.ascontiguousarray(bits).tobytes()
        self.weights.add(name)
        node = helper.make_node(
            LINEAR.name, [x, name, "", bias or ""], [output], domain=DOMAIN, activation=activation
        )
        self.nodes.append(node)


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
    kept = [tensor for tensor in graph.initializer if uses[tensor.name]]
    del graph.initializer[:]
    graph.initializer.extend(kept)
