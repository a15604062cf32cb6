"""What lies between a graph's points: run on eager's values, and named by its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from reformer_export.parity.expose import ModelGraph
from reformer_export.parity.points import Point

GIVEN: Final = "eager."
"""Before a point's name: the graph input that stands for it."""

_PLUMBING: Final = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Identity", "Range", "Reshape", "Shape"}
) | {"Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move or describe values: a subgraph is named after another of its nodes, if it has any."""


class ExposedPoints:
    """A graph with points exposed, open in ONNX Runtime."""

    def __init__(self, graph: ModelGraph, given: Sequence[Point], shown: Sequence[Point]) -> None:
        """What consumes a `given` point reads an input in place of it; the `shown` ones are the outputs."""
        self._graph, self._given, self._shown = graph, given, shown
        self._inputs = {point.value: GIVEN + point.name for point in given}
        self._values = [point.value for point in shown]
        self._exposed = graph.expose(self._inputs, self._values)

    def feeds(
        self, inputs: Mapping[str, NDArray[np.int64]], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """All that a run takes: the graph's own `inputs`, and the points' `values`, by name, as they are in
        the graph: in its types and ranks."""
        wanted = set(self._exposed.inputs)
        feeds: dict[str, NDArray[Any]] = {name: value for name, value in inputs.items() if name in wanted}
        for point in self._given:
            if GIVEN + point.name in wanted:
                feeds[GIVEN + point.name] = _fit(point, values[point.name])
        return feeds

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The shown points' values by name: float32, buckets int32, in the graph's own shapes."""
        got = self._exposed.run(feeds)
        return {point.name: got[point.value] for point in self._shown}

    def extract(self) -> onnx.ModelProto:
        """The graph that runs, with the weights that it needs in it."""
        return self._graph.extract(self._inputs, self._values)


def _fit(point: Point, value: NDArray[Any]) -> NDArray[Any]:
    if point.role == "buckets":
        return value
    if point.rank == 2 and value.ndim == 3:
        value = value.reshape(-1, value.shape[-1])
    if point.elem_type == onnx.TensorProto.FLOAT16:
        return value.astype(np.float16)
    if point.elem_type == onnx.TensorProto.BFLOAT16:  # which runs in float32, with its roundings
        rounded: NDArray[np.float32] = torch.from_numpy(value).bfloat16().float().numpy()
        return rounded
    return value


def nodes_of_subgraph(model: onnx.ModelProto, points: Sequence[Point], point: Point) -> list[onnx.NodeProto]:
    """The nodes between `point` and the points before it, in the graph's order: what computes it, last."""
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
    return [nodes[i] for i in sorted(found)]


def name_node(nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    """The node that a subgraph is named after: the last that computes anything."""
    computing = [node for node in nodes if node.op_type not in _PLUMBING]
    return (computing or list(nodes))[-1]
