"""Memory that the front process and a worker share: a run's outputs are written there and sent from there."""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import weakref
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

REGIONS: Final = 32
"""Runs and unsent answers that find room; the outputs of more go over the socket."""
MAX_REGION_BYTES: Final = 2**28
"""Larger outputs go over the socket."""
KEPT_BYTES: Final = 4 * 2**20
"""Of a region that nobody uses; what is beyond is given back to the system."""


class SharedMemory:
    """Regions of some bytes each, which take up memory only once they are written.

    A region is an array, uint8 [region_bytes], and free again when nothing refers to it or to a view of it
    any more. The last one that became free is the next that is taken: few are ever written.

    Attributes:
        descriptor: for the worker; to be closed once it has it. The size is sealed: what is mapped stays so.
    """

    def __init__(self, region_bytes: int) -> None:
        pages = -(-min(region_bytes, MAX_REGION_BYTES) // mmap.PAGESIZE)
        self.region_bytes = pages * mmap.PAGESIZE
        fd = os.memfd_create("outputs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.descriptor = os.fdopen(fd, "rb+")
        os.ftruncate(fd, REGIONS * self.region_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(fd, REGIONS * self.region_bytes)
        self._free = list(range(REGIONS))
        self._taken: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def take(self) -> tuple[int, NDArray[np.uint8]] | None:
        """Where a region begins, in bytes, and the region; None where all are in use."""
        if not self._free:
            return None
        at = self._free.pop() * self.region_bytes
        region = np.frombuffer(self._memory, np.uint8, self.region_bytes, at)
        self._taken[at] = weakref.ref(region, functools.partial(self._give_back, at))
        return at, region

    def _give_back(self, at: int, _gone: weakref.ref[NDArray[np.uint8]]) -> None:
        del self._taken[at]
        if self.region_bytes > KEPT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE, at + KEPT_BYTES, self.region_bytes - KEPT_BYTES)
        self._free.append(at // self.region_bytes)


def map_memory(fd: int) -> mmap.mmap:
    """The worker's view of all regions; `fd` is closed."""
    try:
        return mmap.mmap(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def write_outputs(memory: mmap.mmap, at: int, outputs: dict[str, NDArray[Any]]) -> None:
    """Write the outputs, one behind the other, from byte `at` on."""
    for value in outputs.values():
        place = np.frombuffer(memory, value.dtype, value.size, at)
        np.copyto(place.reshape(value.shape), value)
        at += place.nbytes
