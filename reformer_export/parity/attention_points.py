"""Where a graph attends: what each layer's attention operator reads and gives, in model.onnx and decode.onnx.

They are found by operator, so that it does not matter whether the graph says which modules its nodes are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from reformer_export.artifact.decoding import DECODE_NAME, DECODE_OUTPUT, cache_tensors
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import (
    DOMAIN,
    LOCAL_ATTENTION,
    LOCAL_ATTENTION_STEP,
    LSH_ATTENTION,
    LSH_ATTENTION_STEP,
    Operator,
)
from reformer_export.errors import ArtifactError
from reformer_export.parity.points import Point, PointFinder
from reformer_export.reference.eager_values import attention_name
from reformer_export.spec import LSHAttentionSpec, ModelSpec

READ: Final[dict[str, tuple[str, ...]]] = {
    LSH_ATTENTION.name: ("query_key", "value", "buckets"),
    LOCAL_ATTENTION.name: ("query", "key", "value"),
}
"""What an operator reads of its tokens, in the order of its inputs; its step reads the same of new ones."""

FULL: Final = (LSH_ATTENTION, LOCAL_ATTENTION)
STEP: Final = (LSH_ATTENTION_STEP, LOCAL_ATTENTION_STEP)


@dataclass(frozen=True)
class AttentionPoints:
    """One layer's: `read` by name as in `READ`, and the `output`; `operator` as the graph has it."""

    layer: int
    operator: str
    read: dict[str, Point]
    output: Point

    @property
    def shown(self) -> list[Point]:
        """All of them."""
        return [*self.read.values(), self.output]


def find_attention(model: onnx.ModelProto, spec: ModelSpec) -> list[AttentionPoints]:
    """Of a model.onnx, by layer; ArtifactError unless it attends once in each, as the manifest says."""
    return _find(PointFinder(model), spec, FULL, MODEL_NAME)


@dataclass(frozen=True)
class DecodePoints:
    """Of a decode.onnx: by layer, the logits, and the present caches in `cache_tensors`' order."""

    layers: tuple[AttentionPoints, ...]
    logits: Point
    present: tuple[Point, ...]

    @property
    def shown(self) -> list[Point]:
        """All of them."""
        return [self.logits, *self.present, *(point for layer in self.layers for point in layer.shown)]

    @property
    def buckets(self) -> list[Point]:
        """The hashes of the new tokens."""
        return [layer.read["buckets"] for layer in self.layers if "buckets" in layer.read]


def find_decode_points(model: onnx.ModelProto, spec: ModelSpec) -> DecodePoints:
    """ArtifactError unless the graph attends once in each layer and gives the caches of the manifest's
    model."""
    finder = PointFinder(model)
    layers = _find(finder, spec, STEP, DECODE_NAME)
    outputs = {value.name for value in model.graph.output}
    names = [DECODE_OUTPUT, *(each.output for each in cache_tensors(spec, "float32"))]
    if set(names) != outputs:
        raise _refuse(DECODE_NAME, f"outputs {', '.join(sorted(outputs))}", f"{', '.join(names)}")
    for name in names:
        finder.add(name, name)
    logits, *present = (finder.points[name] for name in names)
    return DecodePoints(tuple(layers), logits, tuple(present))


def _find(
    finder: PointFinder, spec: ModelSpec, operators: Sequence[Operator], file: str
) -> list[AttentionPoints]:
    names = [operator.name for operator in operators]
    nodes = [node for node in finder.nodes if node.domain == DOMAIN and node.op_type in names]
    wanted = [names[not isinstance(layer, LSHAttentionSpec)] for layer in spec.layers]
    if [node.op_type for node in nodes] != wanted:
        got = ", ".join(node.op_type for node in nodes) or "no attention"
        raise _refuse(file, got, f"{', '.join(wanted)} as the manifest says")
    found = []
    for layer, node in enumerate(nodes):
        read = {}
        kind = FULL[names.index(node.op_type)].name
        for name, value in zip(READ[kind], node.input, strict=False):
            finder.add(
                f"{attention_name(layer)}.{name}", value, layer, "buckets" if name == "buckets" else "other"
            )
            read[name] = finder.points[value]
        finder.add(attention_name(layer), node.output[0], layer, "attention operator")
        found.append(AttentionPoints(layer, node.op_type, read, finder.points[node.output[0]]))
    return found


def _refuse(file: str, got: str, expected: str) -> ArtifactError:
    return ArtifactError(file, got, expected, "export the checkpoint again")
