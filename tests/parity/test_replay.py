from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reformer_export.parity.compare import greatest_difference
from reformer_export.parity.replay import judge_run
from reformer_export.runtimes.replay import NodeRecord, NodeRun

RECORD = NodeRecord("node", "Add", "module", 1, False, 0.5, 0.25, 0, False, "CPUExecutionProvider", {})
BUCKETS = dataclasses.replace(RECORD, buckets=True, error=2.0, tolerance=0.0, explained=1)
JUDGED = np.array([True, True, True, False])


@pytest.mark.parametrize(
    ("got", "now", "agrees"),
    [
        ([1.0, 2.25, 3.0, 9.0], 0.25, True),
        ([1.0, 2.5, 3.0, 4.0], 0.5, False),
        ([1.0, np.nan, 3.0, 4.0], np.inf, False),
        ([1.0, 2.0, 3.0], np.inf, False),
    ],
)
def test_numbers_agree_within_the_tolerance_where_they_count(got, now, agrees) -> None:
    expected, then = np.arange(1, 5, dtype=np.float32), np.zeros(4, np.float32)
    replay = judge_run(NodeRun(RECORD, np.array(got, np.float32), expected, then, JUDGED))
    assert (replay.now, replay.agrees, replay.repeats) == (now, agrees, False)


@pytest.mark.parametrize(("got", "now"), [([0, 1, 2, 9], 0.0), ([0, 1, 5, 3], 0.0), ([7, 7, 7, 3], 2.0)])
def test_buckets_that_differ_are_counted_less_those_explained(got, now) -> None:
    buckets = np.array(got, np.int32)
    replay = judge_run(NodeRun(BUCKETS, buckets, np.arange(4, dtype=np.int32), buckets.copy(), JUDGED))
    assert (replay.now, replay.agrees, replay.repeats) == (now, now == 0, True)


def test_differences_of_another_size_are_infinite() -> None:
    ones = np.ones((2, 2), np.float32)
    assert greatest_difference(np.ones(4, np.float32), ones, ones == 1) == 0.0
    assert greatest_difference(np.ones(3, np.float32), ones, ones == 1) == np.inf
    assert greatest_difference(np.zeros((2, 2), np.float32), ones, ones == 0) == 0.0
