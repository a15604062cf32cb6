"""Interleaved timing: every turn runs each contender once, so that a load on the machine meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

PAUSE_SECONDS: Final = 0.05
"""Between runs, so that idle threads of one library do not spin in the other's time."""

UNSTEADY: Final = 2.0
"""Runs of the same work on a quiet machine differ by a few per cent."""

MIN_TURNS: Final = 3
"""Whatever the time limit."""


@dataclass(frozen=True)
class Percentiles:
    """Latencies in milliseconds, interpolated linearly between the two nearest runs; None where there were
    too few runs for one of them to lie beyond it."""

    p50: float
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        """The percentiles of at least one run."""
        p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(seconds, (50, 90, 99)))
        return cls(p50, p90 if len(seconds) >= 10 else None, p99 if len(seconds) >= 100 else None)


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The median of `seconds` over `others`, pass by pass: equal indices are neighbours in time, so that what
    slows the machine down for a while slows both."""
    return float(np.median(np.divide(seconds, others)))


def is_unsteady(seconds: Sequence[float]) -> bool:
    """Whether a run in ten took `UNSTEADY` times the median or longer."""
    p50, p90 = np.percentile(seconds, (50, 90))
    return bool(p90 >= UNSTEADY * p50)


def time_in_turns(
    runs: Mapping[str, Callable[[], object]],
    max_turns: int,
    max_seconds: float | None = None,
    min_turns: int = MIN_TURNS,
    clock: Callable[[], float] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each run by name; equal indices are neighbours in time.

    Each turn starts with another contender, so that none always follows the same one. `max_turns` turns, or
    as many as `max_seconds` allow, but at least `min_turns`. `clock`: as in `time_once`.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    for turn in range(max_turns):
        late = max_seconds is not None and time.perf_counter() - begin > max_seconds
        if turn >= min_turns and late:
            break
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            time.sleep(PAUSE_SECONDS)
            seconds[name].append(time_once(runs[name], clock))
    return {name: tuple(times) for name, times in seconds.items()}


def time_once(run: Callable[[], object], clock: Callable[[], float] | None = None) -> float:
    """Seconds of one call; `clock` in place of the wall's."""
    now = clock or time.perf_counter
    start = now()
    run()
    return now() - start
