"""Which node of an exported graph computes something else than eager does.

Two runs answer it. In the first the whole graph runs with eager's buckets: an error there is in all that
follows it. In the second each subgraph between two points runs on eager's values: one whose result is wrong
there is wrong itself, and the first of them is named. Where only the first run leaves the tolerance, no
subgraph alone is wrong: errors add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.parity.cases import Case
from reformer_export.parity.point_errors import Judge, PointError
from reformer_export.parity.points import Point, find_points
from reformer_export.parity.results import VerifyResult
from reformer_export.parity.session import ParitySession
from reformer_export.parity.subgraphs import ExposedPoints, name_node, nodes_of_subgraph
from reformer_export.reference.eager_values import Values, run_eager

MAX_FAILING_CASES: Final = 3
"""Failing cases that are searched, the smallest first: a defect seldom hides in all of them."""

MAX_SOUND_TOKENS: Final = 4096
"""Of the case that is searched when none failed: every value of every layer is held in memory."""


@dataclass(frozen=True)
class NamedNode:
    """A subgraph that is wrong on eager's own inputs, named after its node that computes.

    `others`: the subgraph's other nodes. `wrong`: its error on eager's inputs. `pinned_error`: that of the
    same point in the whole graph, with the errors of what lies before.
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
class Subgraph:
    """What it takes to replay a named node: its graph, inputs, eager's value and the file's, and which
    elements count (all three of the same shape)."""

    graph: onnx.ModelProto
    inputs: dict[str, NDArray[Any]]
    expected: NDArray[Any]
    got: NDArray[Any]
    judged: NDArray[np.bool_]


@dataclass(frozen=True)
class BisectResult:
    """What a search found on `case`.

    `named`: the first wrong node, or None; `subgraph`: its own. `first_beyond`: the first point that leaves
    its tolerance in the whole graph with pinned buckets, or None; `largest`: the point that is nearest to, or
    farthest beyond, its tolerance on eager's inputs.
    """

    case: Case
    named: NamedNode | None
    subgraph: Subgraph | None
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
        beyond, named = self.first_beyond, self.named
        node = named and {
            "name": named.node,
            "operator": named.operator,
            "other_nodes": list(named.others),
            "pinned_error": named.pinned_error,
            **named.wrong.to_dict(),
        }
        return {
            "case": self.case.to_dict(),
            "verdict": self.verdict(),
            "first_beyond": beyond and beyond.to_dict(),
            "node": node,
        }


def choose_failing_cases(result: VerifyResult) -> list[Case]:
    """Failing cases, the smallest first; where none failed, the largest that is small enough."""
    by_size = sorted(result.cases, key=lambda found: found.case.batch * found.case.length)
    failed = [found.case for found in by_size if not found.passed]
    if failed:
        return failed[:MAX_FAILING_CASES]
    small = [found.case for found in by_size if found.case.batch * found.case.length <= MAX_SOUND_TOKENS]
    return [small[-1] if small else by_size[0].case]


def bisect(session: ParitySession, cases: Sequence[Case]) -> BisectResult:
    """Name the first node of the session's model.onnx that differs from eager on one of `cases`.

    The cases (at least one) are tried in turn until one names a node; else the result is that of the first
    case in which errors add up, or of the first.

    Raises:
        ArtifactError: the graph does not say which modules its nodes are of.
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    search = _Search(session, find_points(session.graph.model, session.spec))
    results = []
    for case in cases:
        results.append(search.run_case(case))
        if results[-1].named is not None:
            return results[-1]
    return next((result for result in results if result.first_beyond is not None), results[0])


@dataclass(frozen=True)
class _Search:
    session: ParitySession
    points: list[Point]

    def run_case(self, case: Case) -> BisectResult:
        session, points = self.session, self.points
        ids, mask = session.draw(case)
        _, values = run_eager(session.eager, ids, mask, case.num_hashes)
        inputs = session.graph_inputs(ids, mask, case.num_hashes)
        judge = Judge(session.spec, session.manifest.dtype, values, mask)

        got = self._run([point for point in points if point.role == "buckets"], inputs, values)
        pinned = judge.judge(points, got, got)
        alone = judge.judge(points, self._run(points, inputs, values), values)

        first_beyond = next((error for error in pinned if not error.agrees), None)
        wrong = next((error for error in alone if not error.agrees), None)
        largest = max(alone, key=lambda error: error.share)
        if wrong is None:
            return BisectResult(case, None, None, first_beyond, largest)
        in_whole = next(error for error in pinned if error.point is wrong.point)
        named = self._name(wrong, in_whole.error)
        return BisectResult(case, named, self._extract(wrong.point, inputs, judge), first_beyond, largest)

    def _run(
        self, given: list[Point], inputs: dict[str, NDArray[np.int64]], values: Values
    ) -> dict[str, NDArray[Any]]:
        """Every point's value, with eager's `given`."""
        exposed = ExposedPoints(self.session.graph, given, self.points)
        return exposed.run(exposed.feeds(inputs, values))

    def _name(self, wrong: PointError, pinned_error: float) -> NamedNode:
        nodes = nodes_of_subgraph(self.session.graph.model, self.points, wrong.point)
        node = name_node(nodes)
        others = tuple(other.name for other in nodes if other is not node)
        return NamedNode(node.name, node.op_type, others, wrong, pinned_error)

    def _extract(self, point: Point, inputs: dict[str, NDArray[np.int64]], judge: Judge) -> Subgraph:
        """The subgraph that computes `point`, and what it gives alone."""
        exposed = ExposedPoints(self.session.graph, self.points, [point])
        feeds = exposed.feeds(inputs, judge.eager)
        got, expected = exposed.run(feeds)[point.name], judge.eager[point.name]
        shape = got.shape if got.size == expected.size else expected.shape
        judged = judge.judged(point).reshape(shape)
        return Subgraph(exposed.extract(), feeds, expected.reshape(shape), got, judged)
