"""Page-locked host memory, which a GPU writes to without a detour, handed out as arrays.

An array's memory comes back when nobody holds the array any more, and is used again: allocating it takes
longer than filling it. What a caller still holds is never overwritten.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.runtimes.cuda_context import DriverContext, DriverError

PINNED_LIMIT: Final = 2**28
"""Bytes that one model takes at most: page-locked memory is not there for others. What does not fit goes into
ordinary memory."""
GRANULE: Final = 2**16
"""Bytes. Sizes are rounded up to it, so that sequences of nearly equal lengths use the same memory."""


class HostMemory:
    """An address that numpy can look at (numpy's array interface, version 3)."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
        }


class HostAllocator(Protocol):
    """Gives page-locked memory, and takes it back, by address."""

    def allocate(self, size: int) -> int | None:
        """The address of `size` bytes; None where there are none."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""


@dataclass(frozen=True)
class _Block:
    address: int
    size: int


class PinnedBuffers:
    """Arrays in memory of `allocator`, `limit` bytes at most; threads may share it."""

    def __init__(self, allocator: HostAllocator, limit: int = PINNED_LIMIT) -> None:
        self._allocator = allocator
        self._limit = limit
        self._taken = 0
        self._idle: list[_Block] = []
        # An array may go while `lease` runs, on the same thread: it gives back without a lock.
        self._returned: deque[_Block] = deque()
        self._lock = threading.Lock()
        self._is_closed = False

    def lease(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """An array with any contents; None where there is no memory for it."""
        size = max(-(-math.prod(shape) * dtype.itemsize // GRANULE), 1) * GRANULE
        with self._lock:
            self._collect()
            block = self._find(size) or self._take(size)
        if block is None:
            return None
        memory = HostMemory(block.address, shape, dtype)
        weakref.finalize(memory, self._give_back, block).atexit = False
        return np.asarray(memory)

    def close(self) -> None:
        """Free what nobody holds, and what is still held as soon as nobody does."""
        self._is_closed = True
        with self._lock:
            self._collect()
            self._free_idle()

    def __del__(self) -> None:
        self.close()

    def _give_back(self, block: _Block) -> None:
        """Called where an array goes: takes no lock."""
        self._returned.append(block)
        if self._is_closed:
            with contextlib.suppress(IndexError):
                while True:
                    self._allocator.free(self._returned.popleft().address)

    def _collect(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.append(self._returned.popleft())

    def _find(self, size: int) -> _Block | None:
        """The smallest idle block that is large enough, and not so large that it is wasted."""
        fitting = [block for block in self._idle if size <= block.size <= 2 * size]
        if not fitting:
            return None
        block = min(fitting, key=lambda block: block.size)
        self._idle.remove(block)
        return block

    def _take(self, size: int) -> _Block | None:
        if self._taken + size > self._limit:
            self._free_idle()
        address = self._allocator.allocate(size) if self._taken + size <= self._limit else None
        if address is None:
            return None
        self._taken += size
        return _Block(address, size)

    def _free_idle(self) -> None:
        for block in self._idle:
            self._allocator.free(block.address)
            self._taken -= block.size
        self._idle.clear()


class CudaHostMemory:
    """Page-locked memory from NVIDIA's driver, in a GPU's own context, as ONNX Runtime's.

    What the driver refuses is not there: the caller has ordinary memory.
    """

    _PORTABLE: Final = 1  # CU_MEMHOSTALLOC_PORTABLE of cuda.h

    def __init__(self, device_id: int = 0) -> None:
        """The errors of `DriverContext` where there is no driver that can do it."""
        self._context = DriverContext(device_id)
        self._driver = self._context.driver

    def allocate(self, size: int) -> int | None:
        address = ctypes.c_void_p()
        with contextlib.suppress(DriverError), self._context.current():
            pointer, flags = ctypes.byref(address), ctypes.c_uint(self._PORTABLE)
            if self._driver.cuMemHostAlloc(pointer, ctypes.c_size_t(size), flags) == 0:
                return address.value
        return None

    def free(self, address: int) -> None:
        with contextlib.suppress(DriverError), self._context.current():
            self._driver.cuMemFreeHost(ctypes.c_void_p(address))


def open_pinned_buffers(device_id: int = 0) -> PinnedBuffers | None:
    """Buffers of a GPU's; None where there is no driver."""
    try:
        return PinnedBuffers(CudaHostMemory(device_id))
    except (OSError, AttributeError, DriverError):
        return None
