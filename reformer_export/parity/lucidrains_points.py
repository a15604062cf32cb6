"""The points of a graph of reformer-pytorch's model; eager's values: reference/lucidrains_values.py."""

from __future__ import annotations

import onnx

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, LOCAL_ATTENTION, LSH_ATTENTION, LSH_BUCKETS
from reformer_export.errors import ArtifactError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.parity.points import PointFinder
from reformer_export.reference.eager_values import attention_name, memory_name
from reformer_export.reference.lucidrains_values import HASH_HEADS, LOCAL_HEADS, OPERATOR, SCALED
from reformer_export.spec import LSHAttentionSpec, ModelSpec


class LucidrainsPointFinder(PointFinder):
    """Collects points among the nodes of the other canonical model (modeling/lucidrains.py)."""

    def add_all(self, spec: ModelSpec) -> None:
        assert isinstance(spec, LucidrainsSpec)
        if self.within("embeddings"):  # not where a model takes vectors
            self.add_embeddings()
        if spec.lsh_layers:
            self._add_angles()
        for layer in range(len(spec.layers)):
            self._add_attention(layer, spec)
            self._add_feed_forward(layer, spec)
        if spec.logits == "last":
            self.add_last_rows(self._first_of_head)
        else:
            self._add_end(len(spec.layers))
        self._add_head(spec)

    def stream(self, norm: str) -> str:
        """The sum that a norm of whatever kind computes, or reads."""
        for node in self.directly_in(norm, "Add"):  # without a layer norm
            return str(node.output[0])
        return super().stream(norm)

    def add_embeddings(self) -> None:
        self.add_modules("embeddings.word_embeddings")
        self._add_if_any("embeddings.position_embeddings")
        for product in self.directly_in("embeddings.projection", "MatMul", "Gemm"):
            self.add("embeddings.sum", product.input[0])
            self.add_linear("embeddings.projection")
        self.add_modules("embeddings")

    def _add_angles(self) -> None:
        for op_type, name in (("Cos", "cosines"), ("Sin", "sines")):
            for node in self.directly_in("rotary_positions", op_type):
                self.add(f"rotary_positions.{name}", node.output[0])

    def _add_if_any(self, module: str, layer: int | None = None) -> None:
        """The result of a module that is not in every model, or does nothing in some."""
        if self.within(module):
            self.add_modules(module, layer=layer)

    def _add_attention(self, layer: int, spec: LucidrainsSpec) -> None:
        block, attention = f"encoder.layers.{layer}", attention_name(layer)
        if layer > 0:
            stream = self.stream(f"{block}.attention.layer_norm")
            self.add(f"encoder.layers.{layer - 1}.hidden_states", stream, layer - 1)
        if self.within(f"{block}.feed_forward"):  # an attention alone has no norm, but may have a cast there
            self._add_if_any(f"{block}.attention.layer_norm", layer)
        for projection in ("query_key", "value"):
            self.add_linear(f"{attention}.{projection}", layer)
        operators = self._operators(layer, spec)
        if isinstance(spec.layers[layer], LSHAttentionSpec):
            self.add(f"{attention}.buckets", self.only(attention, LSH_BUCKETS), layer, "buckets")
            self.add(attention + SCALED, operators[0].input[0], layer)
        result = self.last(attention)
        self.add(attention, result, layer, "attention operator")
        parts = [result]
        if len(operators) > 1:
            parts = self._inputs_of(result, attention)[::-1]
        for name, part, operator in zip((HASH_HEADS, LOCAL_HEADS), parts, operators, strict=False):
            self.add(attention + name, part, layer)
            self.add(attention + name + OPERATOR, operator.output[0], layer, "unmasked")
        self.add_linear(f"{block}.attention.output.dense", layer, "attention output")
        self.add(f"{block}.attention", self.last(f"{block}.attention"), layer)

    def _operators(self, layer: int, spec: LucidrainsSpec) -> list[onnx.NodeProto]:
        """What attends in a layer: the heads that hash, or attend to everything, then the local ones."""
        first = LSH_ATTENTION if isinstance(spec.layers[layer], LSHAttentionSpec) else LOCAL_ATTENTION
        wanted = [first.name, *([LOCAL_ATTENTION.name] if spec.num_local_heads else [])]
        nodes = [node for node in self.within(attention_name(layer)) if node.domain == DOMAIN]
        found = [node for node in nodes if node.op_type in (LSH_ATTENTION.name, LOCAL_ATTENTION.name)]
        if [node.op_type for node in found] != wanted:
            raise ArtifactError(
                MODEL_NAME,
                f"{', '.join(node.op_type for node in found) or 'no attention'} in layer {layer}",
                f"{', '.join(wanted)} as the manifest says",
                "export the checkpoint again",
            )
        return found

    def _inputs_of(self, value: str, module: str) -> list[str]:
        """What the node reads that computes `value` from two others."""
        for node in self.nodes:
            if value in node.output and len(node.input) == 2:
                return [str(name) for name in node.input]
        raise ArtifactError(
            MODEL_NAME,
            f"no node that makes {value} of two others",
            f"one at the end of {module}",
            "export the checkpoint again with this version",
        )

    def _add_memory(self, layer: int) -> None:
        memory = memory_name(layer)
        self.add_linear(f"{memory}.query", layer)
        self.add_modules(f"{memory}.query_norm", layer=layer)
        self.add(f"{memory}.choice", self.last(f"{memory}.choice"), layer, "memories")

    def _add_feed_forward(self, layer: int, spec: LucidrainsSpec) -> None:
        block = f"encoder.layers.{layer}.feed_forward"
        if not self.within(block):
            return  # an attention alone
        self.add(f"encoder.layers.{layer}.attention_stream", self.stream(f"{block}.layer_norm"), layer)
        self._add_if_any(f"{block}.layer_norm", layer)
        if layer in spec.memory_layers:
            self._add_memory(layer)
        else:
            self.add_inner(f"{block}.inner", layer)
            for product in self.products(f"{block}.outer"):
                self.add(f"{block}.activation", product.input[0], layer)
            self.add_linear(f"{block}.outer", layer)
        self.add(block, self.last(block), layer, "feed forward")

    def _add_end(self, num_layers: int) -> None:
        for mean in self.directly_in("encoder", "Mul"):
            _attention_stream, hidden_states = self._inputs_of(mean.input[0], "encoder")
            self.add(f"encoder.layers.{num_layers - 1}.hidden_states", hidden_states, num_layers - 1)
            self.add("encoder.mean", mean.output[0])
        self._add_if_any("encoder.layer_norm")

    @property
    def _first_of_head(self) -> str:
        return "lm_head.projection" if self.within("lm_head.projection") else "lm_head.decoder"

    def _add_head(self, spec: LucidrainsSpec) -> None:
        if spec.task == "feature-extraction":
            for name in spec.output_names:
                self.add(name, name)
            return
        for module in dict.fromkeys((self._first_of_head, "lm_head.decoder")):
            self.add_linear(module)
