"""Device memory, and pinned host memory beside it, that grow as they are asked to and are used again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from reformer_export.runtimes.pinned import HostMemory
from reformer_export.runtimes.tensorrt.cuda import CudaDevice, CudaError


class Block:
    """One piece of memory: `address` and `size` in bytes. Nothing may be using it while it grows.

    `before_move` is called before memory that was given out goes away.
    """

    def __init__(
        self,
        allocate: Callable[[int], int],
        free: Callable[[int], None],
        before_move: Callable[[], None],
    ) -> None:
        self.address = 0
        self.size = 0
        self._allocate = allocate
        self._free = free
        self._before_move = before_move

    def reserve(self, size: int) -> None:
        """Have at least `size` bytes. When the block grows, the address changes and the contents are gone.

        It grows by half at least, so that texts that grow token by token do not allocate for each.
        """
        if size <= self.size:
            return
        roomy = max(size, self.size + self.size // 2)
        self.release()
        try:
            self._take(roomy)
        except CudaError as error:
            if not error.is_out_of_memory or roomy == size:
                raise
            self._take(size)

    def _take(self, size: int) -> None:
        self.address = self._allocate(size)
        self.size = size

    def release(self) -> None:
        """Give the memory back; the block can be used again."""
        if not self.address:
            return
        self._before_move()
        address, self.address, self.size = self.address, 0, 0
        self._free(address)


class TensorBuffers:
    """For each tensor of an engine a block on the device and a pinned one of the same size on the host."""

    def __init__(self, cuda: CudaDevice, names: tuple[str, ...], before_move: Callable[[], None]) -> None:
        self._device = {name: Block(cuda.allocate, cuda.free, before_move) for name in names}
        self._pinned = {name: Block(cuda.allocate_pinned, cuda.free_pinned, before_move) for name in names}

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Have `sizes[name]` bytes for each tensor, on both sides."""
        for name, size in sizes.items():
            self._device[name].reserve(size)
            self._pinned[name].reserve(size)

    def device_address(self, name: str) -> int:
        return self._device[name].address

    def pinned_address(self, name: str) -> int:
        return self._pinned[name].address

    def view(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The pinned block's first bytes as an array; it must not outlive the next `reserve` or `close`."""
        return np.asarray(HostMemory(self._pinned[name].address, shape, np.dtype(dtype)))

    def close(self) -> None:
        """Free everything, whatever fails on the way."""
        with contextlib.ExitStack() as stack:
            for block in (*self._device.values(), *self._pinned.values()):
                stack.callback(block.release)
