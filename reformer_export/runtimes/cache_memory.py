"""Memory for the caches of decoding, where a session computes: the host's, or a GPU's.

Both kinds do the same, so that what is done with them is tested without a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.gpus import DRIVER
from reformer_export.runtimes.options import Device


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
    def __init__(self, size: int) -> None:
        try:
            self._bytes = np.zeros(size, np.uint8)  # pages that were never written take no memory
        except MemoryError as error:
            raise _no_room(size, "memory") from error
        self.address: int = self._bytes.ctypes.data


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
            self._driver = ctypes.CDLL(DRIVER) if driver is None else driver
        except OSError as error:
            raise RuntimeUnavailableError(
                "decoding", f"'{error}'", "NVIDIA's driver", "install it"
            ) from error
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._check(self._driver.cuInit(0))
        self._check(self._driver.cuDeviceGet(ctypes.byref(device), device_id))
        self._check(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device))

    def allocate(self, size: int) -> Block:
        address = ctypes.c_uint64()
        with self._current():
            if self._driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) != 0:
                raise _no_room(size, "the GPU's memory")
            block = _CudaBlock(self, address.value)
            self._check(self._driver.cuMemsetD8_v2(address, ctypes.c_ubyte(0), ctypes.c_size_t(size)))
        return block

    def copy(self, target: int, source: int, size: int) -> None:
        with self._current():
            where = ctypes.c_uint64(target), ctypes.c_uint64(source)
            self._check(self._driver.cuMemcpyDtoD_v2(*where, ctypes.c_size_t(size)))

    def wait(self) -> None:
        """ONNX Runtime's stream does not wait for the stream of these copies."""
        with self._current():
            self._check(self._driver.cuCtxSynchronize())

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; the driver waits for what still uses it."""
        with contextlib.suppress(RuntimeUnavailableError), self._current():
            self._driver.cuMemFree_v2(ctypes.c_uint64(address))

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self._check(self._driver.cuCtxPushCurrent_v2(self._context))
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _check(self, status: int) -> None:
        if status != 0:
            fix = "see `reformer-export doctor`; after a failed launch, start the program again"
            raise RuntimeUnavailableError("decoding", f"error {status} of NVIDIA's driver", "none", fix)


class _CudaBlock:
    def __init__(self, memory: CudaCacheMemory, address: int) -> None:
        self._memory = memory
        self.address = address

    def __del__(self) -> None:
        self._memory.free(self.address)
