from __future__ import annotations

import itertools

import numpy as np
import pytest

from reformer_export.measure import timing
from reformer_export.measure.timing import Percentiles, is_unsteady, median_ratio, time_in_turns


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)


def recorded(names, turns):
    """The order in which contenders ran, and the seconds they got."""
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in names}
    return order, time_in_turns(runs, turns)


def test_each_turn_runs_every_contender_once_and_starts_with_another():
    order, seconds = recorded("abc", 4)
    turns = ["".join(turn) for turn in itertools.zip_longest(*[iter(order)] * 3)]
    assert turns == ["abc", "bca", "cab", "abc"]
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 4)


def test_seconds_belong_to_their_contender(monkeypatch):
    clock = itertools.count()
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def take(seconds):
        next(clock)
        now[0] += seconds

    seconds = time_in_turns({"slow": lambda: take(3.0), "fast": lambda: take(1.0)}, 5)
    assert seconds == {"slow": (3.0,) * 5, "fast": (1.0,) * 5}
    assert next(clock) == 10


def test_the_time_limit_leaves_the_fewest_turns(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def take():
        now[0] += 10.0

    assert len(time_in_turns({"a": take}, 50, max_seconds=1.0)["a"]) == timing.MIN_TURNS
    assert len(time_in_turns({"a": take}, 50, max_seconds=65.0)["a"]) == 7
    assert len(time_in_turns({"a": take}, 5)["a"]) == 5
    assert len(time_in_turns({"a": take}, 50, max_seconds=1.0, min_turns=1)["a"]) == 1


def test_percentiles_are_milliseconds():
    seconds = np.arange(101) / 1000
    latency = Percentiles.of(tuple(seconds))
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx((50.0, 90.0, 99.0))
    assert Percentiles.of((0.5,)) == Percentiles(500.0, None, None)


@pytest.mark.parametrize(
    ("passes", "p90", "p99"),
    [(5, False, False), (9, False, False), (10, True, False), (99, True, False), (100, True, True)],
)
def test_a_percentile_needs_a_pass_beyond_it(passes, p90, p99):
    latency = Percentiles.of((0.5,) * passes)
    assert (latency.p90 is not None, latency.p99 is not None) == (p90, p99)


def test_a_ratio_compares_the_passes_of_one_turn():
    """A load on the machine slowed the first and the last turn by four: the medians alone would say 40."""
    eager, artifact = (4.0, 1.0, 4.0), (0.4, 0.1, 0.1 * 4)
    assert median_ratio(eager, artifact) == pytest.approx(10)
    eager, artifact = (4.0, 1.0, 4.0), (0.4, 0.1, 0.1)  # it ended in the middle of the last
    assert median_ratio(eager, artifact) == pytest.approx(10)
    assert np.median(eager) / np.median(artifact) == pytest.approx(40)


@pytest.mark.parametrize(
    ("seconds", "unsteady"),
    [
        ((1.0,) * 10, False),
        ((1.0,) * 17 + (1.9,) * 3, False),
        ((1.0,) * 17 + (2.1,) * 3, True),
        ((1.0,), False),
    ],
)
def test_unsteady_is_a_tenth_at_twice_the_median(seconds, unsteady):
    assert is_unsteady(seconds) is unsteady
