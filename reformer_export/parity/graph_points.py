"""The points of a whole graph, those that some question is about, and the nodes that lie between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, LINEAR, LSH_ATTENTION, LSH_BUCKETS
from reformer_export.errors import ArtifactError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.parity.lucidrains_points import LucidrainsPointFinder
from reformer_export.parity.points import Point, PointFinder, no_node
from reformer_export.reference.eager_values import attention_name, memory_name
from reformer_export.spec import ModelSpec

_PLUMBING: Final = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Identity", "Range", "Reshape", "Shape"}
) | {"Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move or describe values: a subgraph is named after another of its nodes, if it has any."""

_CHOICES: Final = {"Where": slice(1, None), "Gather": slice(1)}
"""Operators that choose values by position, as a padder does, and the inputs that they choose from."""


def find_points(model: onnx.ModelProto, spec: ModelSpec) -> list[Point]:
    """Every point of the graph, in its topological order; ArtifactError when one is missing."""
    finder = LucidrainsPointFinder(model) if isinstance(spec, LucidrainsSpec) else PointFinder(model)
    finder.add_all(spec)
    return sorted(finder.points.values(), key=lambda point: point.node)


def find_rounded(model: onnx.ModelProto, spec: ModelSpec) -> list[Point]:
    """The points whose values the graph rounds to int8: what its Linear nodes read.

    The rounding is a choice between two whole numbers, which may fall otherwise where a value lies between
    them: a comparison gives eager's values there. ArtifactError when what a node reads is no point's value,
    nor such values in another arrangement.
    """
    linears = [node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, LINEAR.name)]
    if not linears:
        return []
    points = {point.value: point for point in find_points(model, spec)}
    producers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, Point] = {}
    wanted, seen = [node.input[0] for node in linears], set[str]()
    while wanted:
        value = wanted.pop()
        if value in points:
            found[value] = points[value]
        elif value in producers and value not in seen:
            seen.add(value)
            node = producers[value]
            if node.op_type not in _PLUMBING | _CHOICES.keys():
                raise no_node(f"a point ({value}, which Linear reads)")
            wanted += node.input[_CHOICES.get(node.op_type, slice(None))]
    return sorted(found.values(), key=lambda point: point.node)


def find_hashing(model: onnx.ModelProto, spec: ModelSpec) -> list[Point]:
    """The points that say how a graph hashes and chooses: its outputs, each LSH layer's query_key and
    buckets, and each product-key memory's queries and choice.

    All but the last are found by operator, whether or not the graph says which modules its nodes are of.
    ArtifactError unless it hashes, and attends by hashes, once for each LSH layer.
    """
    hashes, attends = (
        [node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, operator.name)]
        for operator in (LSH_BUCKETS, LSH_ATTENTION)
    )
    if not len(hashes) == len(attends) == len(spec.lsh_layers):
        raise ArtifactError(
            MODEL_NAME,
            got=f"{len(hashes)} LSHBuckets and {len(attends)} LSHAttention nodes",
            expected=f"{len(spec.lsh_layers)} of each as the manifest says",
            fix="export the checkpoint again",
        )
    finder = PointFinder(model)
    for name in spec.output_names:
        finder.add(name, name)
    for layer, node in zip(spec.lsh_layers, hashes, strict=True):
        finder.add(f"{attention_name(layer)}.query_key", node.input[0], layer)
        finder.add(f"{attention_name(layer)}.buckets", node.output[0], layer, "buckets")
    for layer in spec.memory_layers:
        memory = memory_name(layer)
        finder.add_modules(f"{memory}.query_norm", layer=layer)
        finder.add(f"{memory}.choice", finder.last(f"{memory}.choice"), layer, "memories")
    return list(finder.points.values())


def find_subgraph(
    model: onnx.ModelProto, points: Sequence[Point], point: Point
) -> tuple[onnx.NodeProto, list[onnx.NodeProto]]:
    """(the node that `point`'s subgraph is named after: the last that computes anything; the others).

    The subgraph is what lies between `point` and the `points` before it.
    """
    nodes = list(model.graph.node)
    producers = {name: i for i, node in enumerate(nodes) for name in node.output}
    stops = {other.value for other in points} - {point.value}
    found: set[int] = set()
    wanted = [point.value]
    while wanted:
        index = producers.get(wanted.pop())
        if index is None or index in found:
            continue
        found.add(index)
        wanted += [name for name in nodes[index].input if name not in stops]
    subgraph = [nodes[i] for i in sorted(found)]
    named = ([node for node in subgraph if node.op_type not in _PLUMBING] or subgraph)[-1]
    return named, [node for node in subgraph if node is not named]
