"""Measurements over length as curves: for each batch size, a contender's points."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

Points = dict[str, list[tuple[float, float]]]
"""A contender, as the page has it -> (length, value)."""


class _Shaped(Protocol):
    @property
    def batch(self) -> int: ...
    @property
    def length(self) -> int: ...


S = TypeVar("S", bound=_Shaped)


def curves_by_batch(
    measurements: Iterable[S], value: Callable[[S], float | None], label: Callable[[S], str]
) -> dict[int, Points]:
    """By batch size, ascending, the `value` of each measurement that has one, under its `label`."""
    found: dict[int, Points] = {}
    for each in measurements:
        points = found.setdefault(each.batch, {})
        number = value(each)
        if number is not None:
            points.setdefault(label(each), []).append((float(each.length), number))
    return dict(sorted(found.items()))


def tell_longest(curves: Points, write: Callable[[float], str]) -> str:
    """In words, what those have that were measured at the greatest length."""
    longest = max(length for points in curves.values() for length, _ in points)
    at = [(name, dict(points)) for name, points in curves.items()]
    told = [f"{name} {write(values[longest])}" for name, values in at if longest in values]
    return f"At {longest:,.0f} tokens: {', '.join(told)}."
