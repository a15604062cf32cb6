"""The ends of a range of numbers, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

N = TypeVar("N", int, float)


def describe_range(numbers: Iterable[N], write: Callable[[N], str]) -> str:
    """The least and the greatest of `numbers`: "2 to 5", or "2" where both are written alike."""
    numbers = list(numbers)
    least, greatest = write(min(numbers)), write(max(numbers))
    return least if least == greatest else f"{least} to {greatest}"


def write_ratio(ratio: float) -> str:
    """Three digits or so."""
    return f"{ratio:,.2f}" if ratio < 10 else f"{ratio:,.0f}"


def write_rate(rate: float) -> str:
    """Whole from 100 up, else with a tenth."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"
