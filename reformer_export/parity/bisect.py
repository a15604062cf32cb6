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
from reformer_export.parity.expose import ModelGraph
from reformer_export.parity.graph_points import find_subgraph
from reformer_export.parity.point_errors import PointError, PointJudge
from reformer_export.parity.points import CHOICES, Point
from reformer_export.parity.results import VerifyResult
from reformer_export.parity.session import ParitySession

MAX_FAILING_CASES: Final = 3
"""Failing cases that are searched, the smallest first: a defect seldom hides in all of them."""

MAX_SOUND_TOKENS: Final = 4096
"""Of the case that is searched when none failed: every value of every layer is held in memory."""


CAUSES: Final = {
    "hashes": ("other rotations or another hash than those of the recorded seed", "vectors"),
    "memories": ("other keys or another choice than the checkpoint's", "queries"),
}
"""Of unexplained flips on eager's own inputs, and these in a word."""


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
        other, given = CAUSES[agreement.kind]
        return (
            f"{where}{point.module}: {agreement.unexplained} unexplained flips in {agreement.hashed} "
            f"{agreement.kind} (margins up to {agreement.worst_margin:.1e}), tolerance 0: {other}, since it "
            f"was given eager's own {given}"
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
    results = []
    for case in cases:
        results.append(_search_case(session, case))
        if results[-1].named is not None:
            return results[-1]
    return next((result for result in results if result.first_beyond is not None), results[0])


def _search_case(session: ParitySession, case: Case) -> BisectResult:
    points = session.find_points(case)
    trial = session.trial(case)
    truth = trial.run_eager(points=None)
    inputs, values, judge = trial.feeds, truth.values, trial.judge(truth)
    pinned_points = [*(point for point in points if point.role in CHOICES), *session.rounded]
    got = session.graph.expose(pinned_points, points).run(inputs, values)
    pinned = judge.judge(points, got, got)
    alone = judge.judge(points, session.graph.expose(points, points).run(inputs, values), values)

    first_beyond = next((error for error in pinned if not error.agrees), None)
    wrong = next((error for error in alone if not error.agrees), None)
    largest = max(alone, key=lambda error: error.share)
    if wrong is None:
        return BisectResult(case, None, None, first_beyond, largest)
    in_whole = next(error for error in pinned if error.point is wrong.point)
    node, others = find_subgraph(session.graph.model, points, wrong.point)
    names = tuple(other.name for other in others)
    named = NamedNode(node.name, node.op_type, names, wrong, in_whole.error)
    subgraph = _extract_subgraph(session.graph, points, wrong.point, inputs, judge)
    return BisectResult(case, named, subgraph, first_beyond, largest)


def _extract_subgraph(
    graph: ModelGraph,
    points: list[Point],
    point: Point,
    inputs: dict[str, NDArray[Any]],
    judge: PointJudge,
) -> Subgraph:
    """The subgraph that computes `point`, and what it gives alone."""
    exposed, expected = graph.expose(points, [point]), judge.eager[point.name]
    got = exposed.run(inputs, judge.eager)[point.name]
    shape = got.shape if got.size == expected.size else expected.shape
    return Subgraph(
        graph.extract(points, [point]),
        exposed.feeds(inputs, judge.eager),
        expected.reshape(shape),
        got,
        judge.judged(point).reshape(shape),
    )
