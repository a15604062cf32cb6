"""Whether a node that was found wrong agrees with eager now. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reformer_export.parity.compare import greatest_difference
from reformer_export.runtimes.replay import NodeRecord, NodeRun


@dataclass(frozen=True)
class Replay:
    """`record`, and the error `now`; `repeats`: whether every element is the one that the file gave then."""

    record: NodeRecord
    now: float
    repeats: bool

    @property
    def agrees(self) -> bool:
        """Whether the node agrees with eager now."""
        return self.now <= self.record.tolerance

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "node": self.record.node,
            "operator": self.record.operator,
            "module": self.record.module,
            "layer": self.record.layer,
            "error": self.now,
            "recorded_error": self.record.error,
            "tolerance": self.record.tolerance,
            "repeats": self.repeats,
            "agrees": self.agrees,
        }


def judge_run(run: NodeRun) -> Replay:
    """Compare what the node gave with eager's result and with what the file gave then.

    The error counts hash buckets that differ and that rounding did not explain then; of numbers it is the
    largest difference. Infinite for another shape.
    """
    now = float("inf")
    if run.got.shape == run.expected.shape == run.judged.shape:
        if run.record.buckets:
            differing = int(((run.got != run.expected) & run.judged).sum())
            now = float(max(differing - run.record.explained, 0))
        else:
            now = greatest_difference(run.got, run.expected, run.judged)
    repeats = np.array_equal(run.got.astype(run.then.dtype), run.then, equal_nan=run.then.dtype.kind == "f")
    return Replay(run.record, now, repeats)
