"""Which node of an exported graph computes something else than eager does.

Two runs answer it. In the first the whole graph runs with eager's buckets: an error there is in all that
follows it. In the second each part between two points runs on eager's values: a part whose result is wrong
there is wrong itself, and the first of them is named. Where only the first run leaves the tolerance, no
single part is wrong: errors add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.parity.cases import Case, make_inputs
from reformer_export.parity.point_errors import Judge, PointError
from reformer_export.parity.points import Point, find_points
from reformer_export.parity.subgraphs import (
    SubgraphRunner,
    expose,
    graph_inputs,
    name_node,
    nodes_of_subgraph,
    open_subgraph,
    read_model,
)
from reformer_export.reference.eager import EagerReformer
from reformer_export.reference.eager_values import Values, run_eager
from reformer_export.runtimes.ort import Placement


@dataclass(frozen=True)
class NamedNode:
    """A part that is wrong on eager's own inputs, named after its node that computes.

    `others`: the part's other nodes. `wrong`: its error on eager's inputs. `pinned_error`: that of the same
    point in the whole graph, with the errors of what lies before.
    """

    node: str
    operator: str
    others: tuple[str, ...]
    wrong: PointError
    pinned_error: float

    def describe(self) -> str:
        """One line: the node, where it is, and how wrong."""
        point, agreement = self.wrong.point, self.wrong.agreement
        where = f"{self.node} ({self.operator}), " + ("" if point.layer is None else f"layer {point.layer}, ")
        if agreement is None:
            return (
                f"{where}{point.module}: error {self.wrong.error:.1e}, tolerance {self.wrong.tolerance:.1e}"
            )
        return (
            f"{where}{point.module}: {agreement.unexplained} unexplained flips in {agreement.hashed} hashes "
            f"(margins up to {agreement.worst_margin:.1e}), tolerance 0: other rotations or another hash "
            "than those of the recorded seed"
        )


@dataclass(frozen=True)
class Part:
    """What it takes to replay a named part: its graph, inputs, eager's value and the file's, and which
    elements count (all three of the same shape)."""

    graph: onnx.ModelProto
    inputs: dict[str, NDArray[Any]]
    expected: NDArray[Any]
    got: NDArray[Any]
    judged: NDArray[np.bool_]


@dataclass(frozen=True)
class BisectResult:
    """What a search found on `case`.

    `named`: the first wrong node, or None; `part`: its part. `first_beyond`: the first point that leaves its
    tolerance in the whole graph with pinned buckets, or None; `largest`: the part that is nearest to, or
    farthest beyond, its tolerance on eager's inputs.
    """

    case: Case
    named: NamedNode | None
    part: Part | None
    first_beyond: PointError | None
    largest: PointError

    def verdict(self) -> str:
        """One line."""
        if self.named is not None:
            return f"First node that differs: {self.named.describe()} ({self.case})"
        if self.first_beyond is None:
            return f"No node differs ({self.case})"
        beyond = self.first_beyond
        return (
            f"No node differs by itself, but errors add up: {beyond.point.name} has error "
            f"{beyond.error:.1e}, tolerance {beyond.tolerance:.1e}; most is added by "
            f"{self.largest.point.name}, {self.largest.share:.0%} of its tolerance ({self.case})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The finding in JSON values."""
        values: dict[str, Any] = {"case": self.case.to_dict(), "verdict": self.verdict()}
        values["first_beyond"] = None if self.first_beyond is None else _error_values(self.first_beyond)
        values["node"] = None
        if self.named is not None:
            values["node"] = {
                "name": self.named.node,
                "operator": self.named.operator,
                "other_nodes": list(self.named.others),
                "pinned_error": self.named.pinned_error,
                **_error_values(self.named.wrong),
            }
        return values


def _error_values(error: PointError) -> dict[str, Any]:
    agreement = None if error.agreement is None else dataclasses.asdict(error.agreement)
    return {
        "point": error.point.name,
        "module": error.point.module,
        "layer": error.point.layer,
        "error": error.error,
        "tolerance": error.tolerance,
        "greatest": error.greatest,
        "flips": agreement,
    }


def bisect_artifact(
    folder: Path,
    manifest: Manifest,
    eager: EagerReformer,
    cases: Sequence[Case],
    placement: Placement | None = None,
    seed: int = 0,
) -> BisectResult:
    """Name the first node of `folder`'s model.onnx that differs from `eager` on one of `cases`.

    The cases (at least one) are tried in turn until one names a node; else the result is that of the first
    case in which errors add up, or of the first.

    Raises:
        ArtifactError: the graph does not say which modules its nodes are of.
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    placement = placement or Placement()
    model, runnable = read_model(folder / MODEL_NAME, placement.provider)
    points = find_points(model, manifest.spec)
    search = _Search(manifest, eager, model, runnable, points, placement, seed)
    results = []
    for case in cases:
        results.append(search.run_case(case))
        if results[-1].named is not None:
            return results[-1]
    return next((result for result in results if result.first_beyond is not None), results[0])


@dataclass(frozen=True)
class _Search:
    """The graph under test; `runnable` is what runs of `model`, whose names and nodes are shown."""

    manifest: Manifest
    eager: EagerReformer
    model: onnx.ModelProto
    runnable: onnx.ModelProto
    points: list[Point]
    placement: Placement
    seed: int

    def run_case(self, case: Case) -> BisectResult:
        spec = self.manifest.spec
        ids, mask = make_inputs(spec, case, self.seed)
        _, values = run_eager(self.eager, ids, mask, case.num_hashes)
        inputs = graph_inputs(self.manifest, case, ids, mask)
        judge = Judge(spec, self.manifest.dtype, values, mask)

        buckets = {point.name for point in self.points if point.role == "buckets"}
        got = self._run(buckets, inputs, values)
        pinned = judge.judge(self.points, got, got)
        got = self._run({point.name for point in self.points}, inputs, values)
        isolated = judge.judge(self.points, got, values)

        first_beyond = next((error for error in pinned if not error.agrees), None)
        wrong = next((error for error in isolated if not error.agrees), None)
        largest = max(isolated, key=lambda error: error.share)
        if wrong is None:
            return BisectResult(case, None, None, first_beyond, largest)
        in_whole = next(error for error in pinned if error.point is wrong.point)
        named = self._name(wrong, in_whole.error)
        return BisectResult(case, named, self._extract(wrong.point, inputs, judge), first_beyond, largest)

    def _run(
        self, cut: set[str], inputs: dict[str, NDArray[np.int64]], values: Values
    ) -> dict[str, NDArray[Any]]:
        """Every point's value, with the points in `cut` given."""
        opened = expose(self.runnable, self.points, cut, self.points)
        with open_subgraph(opened, self.points, self.placement) as runner:
            return runner.run(runner.feeds(inputs, values))

    def _name(self, wrong: PointError, pinned_error: float) -> NamedNode:
        part = nodes_of_subgraph(self.model, self.points, wrong.point)
        node = name_node(part)
        others = tuple(other.name for other in part if other is not node)
        return NamedNode(node.name, node.op_type, others, wrong, pinned_error)

    def _extract(self, point: Point, inputs: dict[str, NDArray[np.int64]], judge: Judge) -> Part:
        """The part that computes `point`, and what it gives alone."""
        everything = {other.name for other in self.points}
        graph = expose(self.runnable, self.points, everything, [point])
        opened = onnx.ModelProto()
        opened.CopyFrom(graph)
        expected = judge.eager[point.name]
        runner: SubgraphRunner
        with open_subgraph(opened, self.points, self.placement) as runner:
            feeds = runner.feeds(inputs, judge.eager)
            got = runner.run(feeds)[point.name]
        shape = got.shape if got.size == expected.size else expected.shape
        return Part(graph, feeds, expected.reshape(shape), got, judge.judged(point).reshape(shape))
