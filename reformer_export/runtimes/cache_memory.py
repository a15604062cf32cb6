"""Memory for the caches of decoding, where a session computes: the host's, or a GPU's.

Both kinds do the same, so that what is done with them is tested without a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes.cuda_context import DriverContext, DriverError
from reformer_export.runtimes.options import Device

_LARGE_PAGE: Final = 2**21
"""Bytes, of x86's and most of ARM's."""


class Block(Protocol):
    """Memory that is given back when nobody holds it any more.

    `address`: of its first byte.
    """

    address: int


class CacheMemory(Protocol):
    """Where caches lie."""

    device: Device

    def allocate(self, size: int) -> Block:
        """`size` bytes, all zero; InputError where there are not so many."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes between addresses; they are there after the next `wait`."""

    def wait(self) -> None:
        """Until every copy is done."""


def _no_room(size: int, place: str) -> InputError:
    got = f"{size} bytes, for which {place} does not suffice"
    return InputError("the caches", got, "fewer", "decode fewer or shorter sequences at once")


class _HostBlock:
    """Zeros whose pages take no memory before they are written; large pages, where there is much and the
    system has them, since a step reads some hundred slots that lie anywhere."""

    def __init__(self, size: int) -> None:
        is_large = size >= 2 * _LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE")
        try:
            if is_large:
                private = (
                    mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                )  # shared memory has its own setting, most often never
                pages = mmap.mmap(-1, size + _LARGE_PAGE, private)
                with contextlib.suppress(OSError):  # a kernel without them
                    pages.madvise(mmap.MADV_HUGEPAGE)
            self._bytes = np.frombuffer(pages, np.uint8) if is_large else np.zeros(size, np.uint8)
        except (OSError, OverflowError, MemoryError) as error:
            raise _no_room(size, "memory") from error
        start = self._bytes.ctypes.data
        self.address: int = -(-start // _LARGE_PAGE) * _LARGE_PAGE if is_large else start


class HostCacheMemory:
    """Ordinary memory."""

    device: Device = "cpu"

    def allocate(self, size: int) -> Block:
        return _HostBlock(size)

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def wait(self) -> None:
        """Copies are done as they return."""


class CudaCacheMemory:
    """A GPU's memory, from NVIDIA's driver, in the GPU's own context, as ONNX Runtime's."""

    device: Device = "cuda"

    def __init__(self, device_id: int = 0, driver: Any = None) -> None:
        """`driver`: the library to call; None for NVIDIA's."""
        try:
            with _told():
                self._context = DriverContext(device_id, driver)
        except OSError as error:
            raise RuntimeUnavailableError(
                "decoding", f"'{error}'", "NVIDIA's driver", "install it"
            ) from error
        self._driver = self._context.driver

    def allocate(self, size: int) -> Block:
        address = ctypes.c_uint64()
        with self._current():
            if self._driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) != 0:
                raise _no_room(size, "the GPU's memory")
            block = _CudaBlock(self, address.value)
            self._context.check(self._driver.cuMemsetD8_v2(address, ctypes.c_ubyte(0), ctypes.c_size_t(size)))
        return block

    def copy(self, target: int, source: int, size: int) -> None:
        with self._current():
            where = ctypes.c_uint64(target), ctypes.c_uint64(source)
            self._context.check(self._driver.cuMemcpyDtoD_v2(*where, ctypes.c_size_t(size)))

    def wait(self) -> None:
        """ONNX Runtime's stream does not wait for the stream of these copies."""
        with self._current():
            self._context.check(self._driver.cuCtxSynchronize())

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; the driver waits for what still uses it."""
        with contextlib.suppress(RuntimeUnavailableError), self._current():
            self._driver.cuMemFree_v2(ctypes.c_uint64(address))

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        with _told(), self._context.current():
            yield


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A block whose refusals by the driver are told to the user."""
    try:
        yield
    except DriverError as error:
        fix = "see `reformer-export doctor`; after a failed launch, start the program again"
        raise RuntimeUnavailableError("decoding", str(error), "none", fix) from error


class _CudaBlock:
    def __init__(self, memory: CudaCacheMemory, address: int) -> None:
        self._memory = memory
        self.address = address

    def __del__(self) -> None:
        self._memory.free(self.address)
