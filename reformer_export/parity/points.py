"""Which values of an exported graph are which modules' results.

The exporter notes in each node's metadata the modules that the node came from, outermost first, and the last
node of a module computes its result. Module names are those of the canonical model (modeling/), which follow
transformers'; reference/eager_values.py gives eager's values under the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import onnx

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import (
    DOMAIN,
    FINAL_NORM,
    LINEAR,
    LOCAL_ATTENTION,
    LSH_ATTENTION,
    LSH_BUCKETS,
    PRODUCT,
    RESIDUAL_NORM,
    SCOPES_KEY,
    Operator,
)
from reformer_export.errors import ArtifactError
from reformer_export.reference.eager_values import attention_name
from reformer_export.reference.lucidrains_values import HASH_HEADS, LOCAL_HEADS, OPERATOR, SCALED
from reformer_export.spec import LSHAttentionSpec, ModelSpec

Role = Literal[
    "attention operator", "attention output", "feed forward", "buckets", "memories", "unmasked", "other"
]
"""What a point is in its layer; the first three are those that a picture of the layers shows. An "unmasked"
one is what an operator gives: of masked tokens something else than eager, which the graph mends."""


_NO_MODULES: Final = (
    *(".buckets", PRODUCT, "_stream", ".hidden_states", SCALED, HASH_HEADS, LOCAL_HEADS, OPERATOR),
    *(".mean", ".sum", ".cosines", ".sines", ".activation"),
)
"""Ends of names of points that are no module's of their own."""

CHOICES: Final[tuple[Role, ...]] = ("buckets", "memories")
"""Points that are choices between nearly equal scores now and then: a comparison gives them eager's."""


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
        return re.sub(rf"({'|'.join(map(re.escape, _NO_MODULES))})+$", "", self.name)


def has_activation(node: onnx.NodeProto) -> bool:
    """Whether a product computes the activation that follows as well."""
    return any(attribute.name == "activation" and attribute.i for attribute in node.attribute)


class PointFinder:
    """Collects points, of two with one value the first, among the graph's nodes by module."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.points: dict[str, Point] = {}
        self.nodes = list(model.graph.node)
        self._scopes = [_read_scopes(node) for node in self.nodes]
        self._producers = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        described = (*model.graph.value_info, *model.graph.output)
        self._types = {value.name: value.type.tensor_type for value in described}

    def within(self, module: str) -> list[onnx.NodeProto]:
        """The nodes of `module` and the modules in it."""
        return [node for node, scopes in zip(self.nodes, self._scopes, strict=True) if module in scopes]

    def scoped_nodes(self) -> Iterator[tuple[onnx.NodeProto, list[str]]]:
        """Every node, and the modules that it came from, outermost first."""
        return zip(self.nodes, self._scopes, strict=True)

    def describes(self, value: str) -> bool:
        """Whether the graph says what `value` is, and computes it."""
        return value in self._types and value in self._producers

    def directly_in(self, module: str, *op_types: str) -> list[onnx.NodeProto]:
        """The nodes of `module` itself, of the given operators if any are."""
        inside = [n for n, scopes in zip(self.nodes, self._scopes, strict=True) if scopes[-1:] == [module]]
        return [node for node in inside if not op_types or node.op_type in op_types]

    def last(self, module: str) -> str:
        """The value that `module` results in, of a norm that adds first the normed one."""
        inside = self.within(module)
        if not inside:
            raise no_node(module)
        return str(inside[-1].output[-1])

    def stream(self, norm: str) -> str:
        """The sum that the module `norm` reads or, where it adds itself, computes."""
        for node in self.directly_in(norm, "LayerNormalization", RESIDUAL_NORM.name):
            return str(node.input[0] if node.op_type == "LayerNormalization" else node.output[0])
        raise no_node(norm)

    def only(self, module: str, operator: Operator) -> str:
        """The result of the only node of an operator of ours in `module` and the modules in it."""
        wanted = (DOMAIN, operator.name)
        found = [node for node in self.within(module) if (node.domain, node.op_type) == wanted]
        if len(found) != 1:
            raise no_node(f"{module} ({operator.name})")
        return str(found[0].output[0])

    def add(self, name: str, value: str, layer: int | None = None, role: Role = "other") -> None:
        if value in self.points:
            return
        if not self.describes(value):
            raise no_node(f"{name} ({value})")
        node, tensor = self._producers[value], self._types[value]
        self.points[value] = Point(name, value, node, layer, role, len(tensor.shape.dim), tensor.elem_type)

    def products(self, module: str) -> list[onnx.NodeProto]:
        """The matrix products of a linear module itself, with whatever else they compute."""
        return self.directly_in(module, "Gemm", "MatMul", LINEAR.name)

    def add_inner(self, module: str, layer: int) -> None:
        """The inner product of a feed-forward, where it does not compute the activation as well."""
        if not any(has_activation(node) for node in self.products(module)):
            self.add_linear(module, layer)

    def add_linear(self, module: str, layer: int | None = None, role: Role = "other") -> None:
        """A linear module: one node, or a product and the addition of the bias."""
        result = self.last(module)
        for product in self.directly_in(module, "MatMul"):
            if product.output[0] != result:
                self.add(module + PRODUCT, product.output[0], layer)
        self.add(module, result, layer, role)

    def add_modules(self, *modules: str, layer: int | None = None) -> None:
        """The results of modules that are one point each."""
        for module in modules:
            self.add(module, self.last(module), layer)

    def add_all(self, spec: ModelSpec) -> None:
        """Every point of a model of transformers."""
        self.add_embeddings()
        for layer, attention in enumerate(spec.layers):
            self.add_attention(layer, isinstance(attention, LSHAttentionSpec))
            self.add_feed_forward(layer, spec.feed_forward_slices)
        if spec.logits == "last":
            self.add_last_rows("lm_head.decoder")
        else:
            self.add_last_norm(len(spec.layers))
        self.add_head(spec)

    def add_embeddings(self) -> None:
        positions = "embeddings.position_embeddings"
        self.add_modules("embeddings.word_embeddings")
        for concat in self.directly_in(positions, "Concat"):
            for axis, value in enumerate(concat.input):
                self.add(f"{positions}.{axis}", value)
        self.add_modules(positions, "embeddings")

    def add_attention(self, layer: int, is_lsh: bool) -> None:
        block = f"encoder.layers.{layer}"
        attention = attention_name(layer)
        if layer > 0:
            hidden_states = self.stream(f"{block}.attention.layer_norm")
            self.add(f"encoder.layers.{layer - 1}.hidden_states", hidden_states, layer - 1)
        self.add_modules(f"{block}.attention.layer_norm", layer=layer)
        for projection in ("query_key", "value") if is_lsh else ("query", "key", "value"):
            self.add_linear(f"{attention}.{projection}", layer)
        if is_lsh:
            self.add(f"{attention}.buckets", self.only(attention, LSH_BUCKETS), layer, "buckets")
        operator = self.only(attention, LSH_ATTENTION if is_lsh else LOCAL_ATTENTION)
        self.add(attention, operator, layer, "attention operator")
        self.add_linear(f"{block}.attention.output.dense", layer, "attention output")

    def add_feed_forward(self, layer: int, slices: int) -> None:
        block = f"encoder.layers.{layer}.feed_forward"
        stream = self.stream(f"{block}.layer_norm")
        self.add(f"encoder.layers.{layer}.attention_stream", stream, layer)
        self.add_modules(f"{block}.layer_norm", layer=layer)
        for i in range(slices):
            self.add_inner(f"{block}.inner.{i}", layer)
            products = self.products(f"{block}.outer.{i}")
            if not products:
                raise no_node(f"{block}.outer.{i}")
            self.add(f"{block}.activation.{i}", products[0].input[0], layer)
            self.add_linear(f"{block}.outer.{i}", layer)
        self.add(block, self.last(block), layer, "feed forward")

    def add_last_norm(self, num_layers: int) -> None:
        norm = "encoder.layer_norm"
        if not self.directly_in(norm, FINAL_NORM.name):  # a file of before: the norm reads a Concat
            both = self.stream(norm)
            (streams,) = [node.input for node in self.nodes if both in node.output] or [()]
            if len(streams) != 2:
                raise no_node(f"{norm} (a norm over two streams)")
            self.add(f"encoder.layers.{num_layers - 1}.hidden_states", streams[1], num_layers - 1)
        self.add_modules(norm)

    def add_last_rows(self, head: str) -> None:
        """The last norm's rows that `head` reads, which a file of before gathers from all."""
        self.add("encoder.layer_norm", self.products(head)[0].input[0])

    def add_head(self, spec: ModelSpec) -> None:
        if spec.task in ("text-generation", "fill-mask"):
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


def no_node(what: str) -> ArtifactError:
    """Of a graph that lacks `what`."""
    return ArtifactError(
        MODEL_NAME,
        f"no node that says that it is {what}",
        "one for each module of the manifest's model",
        "export the checkpoint again with this version",
    )
