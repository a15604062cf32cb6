"""What decoding on the CPU has to reach, and whether it did."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.decode_timing import MARKS, THREADS, Growth, Measured, Point
from benchmarks.models import SHIPPED

BEFORE: Final = 19.0
"""Tokens/s of the shipped model at 1,900 tokens before it had a cache, on the 2-core machine."""


@dataclass(frozen=True)
class Target:
    """Something to reach: what, the number by medians and by the best steps, and the limit for it."""

    what: str
    value: float
    best: float
    limit: float
    at_least: bool

    @property
    def reached(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "reached" if self.reached else "MISSED"
        found = f"{self.value:,.3g} (by the best steps {self.best:,.3g})"
        return f"{self.what}: {found}, wanted {bound} {self.limit:,.3g}: {verdict}."


def find_targets(measured: Mapping[str, Measured]) -> list[Target]:
    """What was to be reached, with the better number of threads."""
    targets = []
    if SHIPPED.name in measured:
        rates = [1 / step / BEFORE for step in _steps(measured[SHIPPED.name], 1, 1900)]
        targets.append(Target("shipped model, 1,900 tokens, x of 19 tokens/s", *rates, 40, True))
    if "crime" in measured:
        crime = measured["crime"]
        for length, limit in ((16384, 1.5), (65536, 2.0)):
            times = [1e3 * step for step in _steps(crime, 1, length)]
            targets.append(Target(f"crime, {length:,} tokens, ms a step", *times, limit, False))
        points = [Point("artifact", count, 1, 16384) for count in THREADS]
        ratio = min(crime.over_first[point] for point in points if point in crime.over_first)
        best = _steps(crime, 1, 16384)[1] / _steps(crime, 1, 1024)[1]
        targets.append(Target("crime, 16,384 tokens, x of a step at 1,024", ratio, best, 1.6, False))
        many = {point.length for point in crime.timings if point.batch == 16}
        for length in sorted(many):
            pairs = zip(_steps(crime, 1, length), _steps(crime, 16, length), strict=True)
            more = [16 * one / many for one, many in pairs]
            targets.append(Target(f"crime, {length:,} tokens, 16 at once, x tokens/s of one", *more, 4, True))
        targets += [_growth_target(count, growth) for count, growth in crime.growth.items()]
    return targets


def _steps(measured: Measured, batch: int, length: int) -> tuple[float, float]:
    """Seconds of the median and of the best step, each with the better number of threads."""
    points = [Point("artifact", count, batch, length) for count in THREADS]
    timings = [measured.timings[point] for point in points if point in measured.timings]
    return min(timing.median for timing in timings), min(timing.best for timing in timings)


def find_step(growth: Growth, mark: int) -> tuple[float, float]:
    """Seconds: the median and the best of 101 steps around step `mark`, or of the last ones."""
    seconds = growth.seconds[max(0, mark - 51) : mark + 50]
    return statistics.median(seconds), min(seconds)


def _growth_target(threads: int, growth: Growth) -> Target:
    pairs = zip(*(find_step(growth, mark) for mark in MARKS), strict=True)
    ratios = [last / first for first, last in pairs]
    return Target(f"step 10,000 over step 100, {count_threads(threads)}", *ratios, 1.6, False)


def count_threads(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"
