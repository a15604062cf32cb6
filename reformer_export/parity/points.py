"""Which values of an exported graph are which modules' results.

The exporter notes in each node's metadata the modules that the node came from, outermost first, and the last
node of a module computes its result. Module names are those of the canonical model (modeling/), which follow
transformers'; reference/eager_values.py gives eager's values under the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import onnx

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, LOCAL_ATTENTION, LSH_ATTENTION, LSH_BUCKETS, PRODUCT, SCOPES_KEY
from reformer_export.errors import ArtifactError
from reformer_export.spec import LSHAttentionSpec, ModelSpec

Role = Literal["attention operator", "attention output", "feed forward", "buckets", "other"]
"""What a point is in its layer; the first three are those that a picture of the layers shows."""


@dataclass(frozen=True)
class Point:
    """A value that the exported graph and eager both have.

    `name`: module path, or the module's and a suffix; `value`: the graph's; `node`: index of the node that
    computes it; `layer`: of the encoder, None outside; `rank`: axes of the value in the graph; `elem_type`:
    onnx.TensorProto's.
    """

    name: str
    value: str
    node: int
    layer: int | None
    role: Role
    rank: int
    elem_type: int

    @property
    def module(self) -> str:
        """The module that a person looks at: the name without what is no module of its own."""
        return re.sub(r"(\.buckets|\.product|_stream|\.hidden_states)$", "", self.name)


def find_points(model: onnx.ModelProto, spec: ModelSpec) -> list[Point]:
    """Every point of the graph, in its topological order; ArtifactError when one is missing."""
    scopes = _Scopes(model)
    finder = _Finder(scopes, model)
    finder.add_embeddings()
    for layer, attention in enumerate(spec.layers):
        finder.add_attention(layer, isinstance(attention, LSHAttentionSpec))
        finder.add_feed_forward(layer, spec.feed_forward_slices)
    finder.add("encoder.layer_norm", scopes.last("encoder.layer_norm"))
    finder.add_head(spec)
    return sorted(finder.points.values(), key=lambda point: point.node)


class _Scopes:
    """The graph's nodes by module."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self._scopes = [_read_scopes(node) for node in self.nodes]
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output}

    def within(self, module: str) -> list[int]:
        """Indices of the nodes of `module` and the modules in it."""
        return [i for i, scopes in enumerate(self._scopes) if module in scopes]

    def directly_in(self, module: str, *op_types: str) -> list[int]:
        """Indices of the nodes of `module` itself, of the given operators if any are."""
        inside = [i for i, scopes in enumerate(self._scopes) if scopes[-1:] == [module]]
        return [i for i in inside if not op_types or self.nodes[i].op_type in op_types]

    def last(self, module: str) -> str:
        """The value that `module` results in."""
        inside = self.within(module)
        if not inside:
            raise _no_node(module)
        return str(self.nodes[inside[-1]].output[0])

    def only(self, module: str, op_type: str, domain: str = "") -> int:
        """The index of the only node of an operator in `module` and the modules in it."""
        found = [
            i
            for i in self.within(module)
            if self.nodes[i].op_type == op_type and self.nodes[i].domain == domain
        ]
        if len(found) != 1:
            raise _no_node(f"{module} ({op_type})")
        return found[0]


class _Finder:
    """Collects points; of two with one value the first stays."""

    def __init__(self, scopes: _Scopes, model: onnx.ModelProto) -> None:
        self.points: dict[str, Point] = {}
        self._scopes = scopes
        described = (*model.graph.value_info, *model.graph.output)
        self._types = {value.name: value.type.tensor_type for value in described}

    def add(self, name: str, value: str, layer: int | None = None, role: Role = "other") -> None:
        if value in self.points:
            return
        if value not in self._types or value not in self._scopes.producers:
            raise _no_node(f"{name} ({value})")
        tensor = self._types[value]
        node = self._scopes.producers[value]
        rank = len(tensor.shape.dim)
        self.points[value] = Point(name, value, node, layer, role, rank, tensor.elem_type)

    def add_linear(self, module: str, layer: int | None = None, role: Role = "other") -> None:
        """A linear module: one node, or a product and the addition of the bias."""
        result = self._scopes.last(module)
        for index in self._scopes.directly_in(module, "MatMul"):
            if self._scopes.nodes[index].output[0] != result:
                self.add(module + PRODUCT, self._scopes.nodes[index].output[0], layer)
        self.add(module, result, layer, role)

    def add_embeddings(self) -> None:
        positions = "embeddings.position_embeddings"
        self.add("embeddings.word_embeddings", self._scopes.last("embeddings.word_embeddings"))
        for index in self._scopes.directly_in(positions, "Concat"):
            for axis, value in enumerate(self._scopes.nodes[index].input):
                self.add(f"{positions}.{axis}", value)
        self.add(positions, self._scopes.last(positions))
        self.add("embeddings", self._scopes.last("embeddings"))

    def add_attention(self, layer: int, is_lsh: bool) -> None:
        block = f"encoder.layers.{layer}"
        attention = f"{block}.attention.self_attention"
        self.add(f"{block}.attention.layer_norm", self._scopes.last(f"{block}.attention.layer_norm"), layer)
        for projection in ("query_key", "value") if is_lsh else ("query", "key", "value"):
            self.add_linear(f"{attention}.{projection}", layer)
        if is_lsh:
            hashing = self._scopes.nodes[self._scopes.only(attention, LSH_BUCKETS.name, DOMAIN)]
            self.add(f"{attention}.buckets", hashing.output[0], layer, "buckets")
        operator = self._scopes.only(attention, (LSH_ATTENTION if is_lsh else LOCAL_ATTENTION).name, DOMAIN)
        self.add(attention, self._scopes.nodes[operator].output[0], layer, "attention operator")
        self.add_linear(f"{block}.attention.output.dense", layer, "attention output")
        own = self._scopes.directly_in(block)
        sums = [i for i in own if self._scopes.nodes[i].op_type != "Cast"]
        if len(sums) != 2:
            raise _no_node(f"{block} (two residual additions, got {len(sums)})")
        self.add(f"{block}.attention_stream", self._scopes.nodes[sums[0]].output[0], layer)
        self.add(f"{block}.hidden_states", self._scopes.nodes[sums[1]].output[0], layer)

    def add_feed_forward(self, layer: int, slices: int) -> None:
        block = f"encoder.layers.{layer}.feed_forward"
        self.add(f"{block}.layer_norm", self._scopes.last(f"{block}.layer_norm"), layer)
        for i in range(slices):
            self.add_linear(f"{block}.inner.{i}", layer)
            products = self._scopes.directly_in(f"{block}.outer.{i}", "Gemm", "MatMul")
            if not products:
                raise _no_node(f"{block}.outer.{i}")
            self.add(f"{block}.activation.{i}", self._scopes.nodes[products[0]].input[0], layer)
            self.add_linear(f"{block}.outer.{i}", layer)
        self.add(block, self._scopes.last(block), layer, "feed forward")

    def add_head(self, spec: ModelSpec) -> None:
        if spec.task in ("text-generation", "fill-mask"):
            if spec.logits == "last":
                product = self._scopes.directly_in("lm_head.decoder", "Gemm", "MatMul")[0]
                self.add("last_attended", self._scopes.nodes[product].input[0])
            self.add_linear("lm_head.decoder")
        elif spec.task == "text-classification":
            self.add_linear("classifier.dense")
            self.add_linear("classifier.out_proj")
        elif spec.task == "question-answering":
            self.add_linear("qa_outputs")
            for name in spec.output_names:
                self.add(name, name)


def _read_scopes(node: onnx.NodeProto) -> list[str]:
    """Paths of the modules that `node` came from, outermost first."""
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            return re.findall(r"'([^']*)'", entry.value)[:-1]  # the last is the node's own name
    return []


def _no_node(what: str) -> ArtifactError:
    return ArtifactError(
        f"{MODEL_NAME}: got no node that says that it is {what}, expected one for each module of the "
        "manifest's model; export the checkpoint again with this version"
    )
