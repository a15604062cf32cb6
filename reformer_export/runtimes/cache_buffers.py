"""The caches of several sequences: one buffer a cache tensor, a row of it a sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from reformer_export.artifact.decoding import CAPACITY, CacheTensor
from reformer_export.runtimes.cache_memory import CacheMemory

BLOCK_TOKENS: Final = 1024
"""Tokens by which the capacity grows at the least."""


class CacheBuffers:
    """Buffers [rows, ...] of the shapes of `tensors` at one capacity, in `memory`; all zero at first.

    A row that is held through a view of it, `address`, stays where it is as long as this object is kept.
    """

    def __init__(
        self, tensors: Sequence[CacheTensor], memory: CacheMemory, rows: int = 0, capacity: int = 0
    ) -> None:
        self.tensors = tuple(tensors)
        self.memory = memory
        self.rows = rows
        self.capacity = capacity
        self._strides = [tensor.nbytes(1, capacity) for tensor in self.tensors]
        self._blocks = [memory.allocate(rows * stride) for stride in self._strides] if rows else []

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return self.rows * sum(self._strides)

    def nbytes_of(self, rows: int, capacity: int) -> int:
        """`nbytes` at another size."""
        return sum(tensor.nbytes(rows, capacity) for tensor in self.tensors)

    def address(self, index: int, row: int) -> int:
        """Of row `row` in the buffer of tensor `index`; the rows behind it follow."""
        return self._blocks[index].address + row * self._strides[index]

    def resized(self, rows: int, capacity: int, held: Mapping[int, int]) -> CacheBuffers:
        """Buffers of another size with the `held` tokens of each row in them; these stay as they are."""
        larger = CacheBuffers(self.tensors, self.memory, rows, capacity)
        for row, tokens in held.items():
            larger.copy_row(row, self, row, tokens)
        self.memory.wait()
        return larger

    def move_row(self, target: int, source: int, tokens: int) -> None:
        """Copy the `tokens` of row `source` to row `target`."""
        self.copy_row(target, self, source, tokens)
        self.memory.wait()

    def copy_row(self, row: int, source: CacheBuffers, source_row: int, tokens: int) -> None:
        """Copy the first `tokens` of a row of `source`, which may have another capacity."""
        for index, tensor in enumerate(self.tensors):
            count, step, source_step, size = _cut(tensor, self.capacity, source.capacity, tokens)
            to, origin = self.address(index, row), source.address(index, source_row)
            for strip in range(count):
                self.memory.copy(to + strip * step, origin + strip * source_step, size)


def _cut(tensor: CacheTensor, capacity: int, source_capacity: int, tokens: int) -> tuple[int, int, int, int]:
    """The contiguous strips of a row that hold its tokens: (number, bytes from one to the next in buffers of
    `capacity`, the same for `source_capacity`, bytes to copy)."""
    if not tensor.grows:  # a ring: token p is at p modulo its length
        size = tensor.nbytes(1, 0)
        return 1, size, size, size
    count = math.prod(int(size) for size in tensor.shape[: tensor.shape.index(CAPACITY)])
    token = tensor.nbytes(1, 1) // count
    return count, capacity * token, source_capacity * token, tokens * token


def choose_capacity(now: int, needed: int, longest: int) -> int:
    """The capacity in tokens to grow to from `now`, so that growing costs each token a constant share."""
    if needed <= now:
        return now
    wanted = max(needed, now + now // 2)
    return min(-(-wanted // BLOCK_TOKENS) * BLOCK_TOKENS, longest)


def choose_rows(now: int, needed: int) -> int:
    """The rows to grow to from `now`."""
    return now if needed <= now else max(needed, now + now // 2)
