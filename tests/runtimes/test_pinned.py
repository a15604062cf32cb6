from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from reformer_export.runtimes import cuda_context
from reformer_export.runtimes.pinned import GRANULE, PinnedBuffers, open_pinned_buffers
from tests.runtimes.cuda_stand_in import HostPages

BYTE = np.dtype(np.uint8)


def take(buffers: PinnedBuffers, size: int) -> np.ndarray:
    array = buffers.lease((size,), BYTE)
    assert array is not None
    return array


def test_an_array_has_its_shape_and_type_and_is_written() -> None:
    pages = HostPages()
    array = PinnedBuffers(pages).lease((2, 3, 5), np.dtype(np.float16))
    assert array is not None
    array[...] = np.arange(30).reshape(2, 3, 5)
    assert (array.dtype, array.shape, array[1, 2, 4]) == (np.float16, (2, 3, 5), 29)
    assert list(pages.held) == [array.ctypes.data]


def test_memory_comes_back_when_nobody_holds_it() -> None:
    pages = HostPages()
    buffers = PinnedBuffers(pages)
    first = take(buffers, GRANULE)
    view, address = first[3:7], first.ctypes.data
    del first
    gc.collect()
    assert take(buffers, GRANULE).ctypes.data != address, "a view holds it"
    del view
    gc.collect()
    assert {take(buffers, GRANULE - 1).ctypes.data for _ in range(3)} <= set(pages.held)
    assert len(pages.held) == 2


def test_a_small_array_does_not_take_a_large_one_s_memory() -> None:
    pages = HostPages()
    buffers = PinnedBuffers(pages)
    take(buffers, 8 * GRANULE)
    gc.collect()
    small, large = take(buffers, GRANULE), take(buffers, 5 * GRANULE)
    assert (small.nbytes, large.nbytes, len(pages.held)) == (GRANULE, 5 * GRANULE, 2)


def test_beyond_the_limit_there_is_none_and_what_is_idle_makes_room() -> None:
    pages = HostPages()
    buffers = PinnedBuffers(pages, limit=4 * GRANULE)
    kept = take(buffers, GRANULE)
    take(buffers, 3 * GRANULE)
    gc.collect()
    other = take(buffers, GRANULE)  # the idle three are too large for it, and in its way
    assert buffers.lease((3 * GRANULE,), BYTE) is None
    assert set(pages.held) == {kept.ctypes.data, other.ctypes.data}


def test_closing_frees_what_is_idle_and_then_what_is_held() -> None:
    pages = HostPages()
    buffers = PinnedBuffers(pages)
    kept, idle = take(buffers, 1), take(buffers, 1)
    del idle
    gc.collect()
    buffers.close()
    assert list(pages.held) == [kept.ctypes.data]
    del buffers
    kept[0] = 5
    del kept
    gc.collect()
    assert not pages.held


def test_buffers_that_are_dropped_free_all() -> None:
    pages = HostPages()
    take(PinnedBuffers(pages), 1)
    gc.collect()
    assert not pages.held


def test_threads_never_share_an_array() -> None:
    buffers = PinnedBuffers(HostPages())
    ready = threading.Barrier(4)

    def fill(number: int) -> bool:
        ready.wait()
        for _ in range(300):
            array = take(buffers, 64)
            array[...] = number
            if not (array == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(4)))


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_context, "DRIVER", "no-such-driver.so.1")
    assert open_pinned_buffers() is None


class Driver:
    """The functions of NVIDIA's driver that are used, over memory of the host; `failing` returns an error."""

    def __init__(self, failing: str = "") -> None:
        self.pages, self.failing, self.current = HostPages(), failing, 0

    def __getattr__(self, name: str) -> Any:
        if name not in ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"):
            raise AttributeError(name)
        return lambda *_arguments: 999 if name == self.failing else 0

    def cuCtxPushCurrent_v2(self, _context: object) -> int:  # noqa: N802
        self.current += 1
        return 0

    def cuCtxPopCurrent_v2(self, _context: object) -> int:  # noqa: N802
        self.current -= 1
        return 0

    def cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        assert (self.current, flags.value) == (1, 1)
        if self.failing == "cuMemHostAlloc":
            return 2
        address._obj.value = self.pages.allocate(size.value)
        return 0

    def cuMemFreeHost(self, address: Any) -> int:  # noqa: N802
        assert self.current == 1
        self.pages.free(address.value)
        return 0


def test_the_driver_s_memory_in_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(cuda_context.ctypes, "CDLL", lambda _name: driver)
    buffers = open_pinned_buffers()
    assert buffers is not None
    array = take(buffers, 10)
    assert (list(driver.pages.held), driver.current) == ([array.ctypes.data], 0)
    del array
    buffers.close()
    assert (driver.pages.held, driver.current) == ({}, 0)


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_a_driver_that_does_not_start_gives_none(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr(cuda_context.ctypes, "CDLL", lambda _name: Driver(failing))
    assert open_pinned_buffers() is None


def test_memory_that_the_driver_refuses_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_context.ctypes, "CDLL", lambda _name: Driver("cuMemHostAlloc"))
    buffers = open_pinned_buffers()
    assert buffers is not None
    assert buffers.lease((1,), BYTE) is None
