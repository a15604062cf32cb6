"""Requests for a pass, and several of them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.serving.messages import Infer


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
class Request:
    """`ids` int64 [rows, length] and `mask` int8 of the same shape (None: all ones), checked; `row_bytes`:
    of a row's outputs."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int8] | None
    num_hashes: int | None
    row_bytes: int

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        length: int = self.ids.shape[1]
        return length


@dataclass(frozen=True)
class Answered:
    """`outputs` float32 by name, rows first, without padding; milliseconds of waiting and running; `rows` of
    the batch."""

    outputs: dict[str, NDArray[np.float32]]
    queue_ms: float
    run_ms: float
    rows: int


def join_requests(requests: Sequence[Request], pad_token_id: int) -> tuple[Infer, tuple[Any, ...]]:
    """One message for all: rows one behind the other, padded to the longest and masked."""
    rows, length = sum(each.rows for each in requests), max(each.length for each in requests)
    masked = any(each.mask is not None or each.length != length for each in requests)
    message = Infer(0, rows, length, masked, requests[0].num_hashes)
    if len(requests) == 1:
        (only,) = requests
        return message, (only.ids,) if only.mask is None else (only.ids, only.mask)
    ids = np.full((rows, length), pad_token_id, np.int64)
    mask = np.zeros((rows, length), np.int8)
    row = 0
    for each in requests:
        ids[row : row + each.rows, : each.length] = each.ids
        mask[row : row + each.rows, : each.length] = 1 if each.mask is None else each.mask
        row += each.rows
    return message, (ids, mask) if masked else (ids,)
