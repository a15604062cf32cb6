"""What a batch of requests may be, and what each of them gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchLimits:
    """Of a batch: `rows`, `tokens` (with padding) and `response` bytes of its outputs; `delay`: seconds that
    a request waits for company; `waiting`: requests that wait."""

    rows: int
    tokens: int
    response: int
    delay: float
    waiting: int


@dataclass(frozen=True)
class Answered:
    """`outputs` by name, rows first, without padding, floats as float32; milliseconds of waiting and running;
    `rows` of the batch."""

    outputs: dict[str, NDArray[Any]]
    queue_ms: float
    run_ms: float
    rows: int
