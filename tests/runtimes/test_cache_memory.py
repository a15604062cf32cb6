"""Caches in a GPU's memory: the driver, and ONNX Runtime's provider, are stand-ins on the host."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from reformer_export.artifact.decoding import CacheTensor, cache_tensors
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes import cache_buffers, load, ort
from reformer_export.runtimes.cache_buffers import CacheBuffers, choose_capacity, choose_rows
from reformer_export.runtimes.cache_memory import CudaCacheMemory, HostCacheMemory
from tests.runtimes.cuda_stand_in import stand_in
from tests.runtimes.decoders import decoding_artifact, draw_ids

RING = CacheTensor(0, "key", "float16", (6, 4))
ROWS = CacheTensor(1, "value", "float32", ("capacity", 4))
BUCKETS = CacheTensor(1, "buckets", "int32", (2, 3, "capacity"))
TENSORS = (RING, ROWS, BUCKETS)


class Driver:
    """NVIDIA's driver on the host. Every call is written down; those in `failing` return that status."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: dict[int, Any] = {}
        self.failing: dict[str, int] = {}
        self.contexts = 0
        self._acts = {
            "cuCtxPushCurrent_v2": self._push,
            "cuCtxPopCurrent_v2": self._pop,
            "cuMemAlloc_v2": self._allocate,
            "cuMemsetD8_v2": self._set,
            "cuMemcpyDtoD_v2": self._copy,
            "cuMemFree_v2": self._free,
        }

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name not in ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"):
                assert self.contexts == 1, f"{name} without the GPU's context"
            act = self._acts.get(name, lambda *_: 0)
            return self.failing.get(name) or act(*arguments)

        return call

    def _push(self, _context: Any) -> int:
        self.contexts += 1
        return 0

    def _pop(self, _context: Any) -> int:
        self.contexts -= 1
        return 0

    def _allocate(self, address: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(b"\xff" * size.value, size.value)
        address._obj.value = ctypes.addressof(block)
        self.held[ctypes.addressof(block)] = block
        return 0

    def _set(self, address: Any, value: Any, size: Any) -> int:
        ctypes.memset(address.value, value.value, size.value)
        return 0

    def _copy(self, target: Any, source: Any, size: Any) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def _free(self, address: Any) -> int:
        del self.held[address.value]
        return 0


def views_of(buffers: CacheBuffers) -> list[Any]:
    """The buffers as arrays [rows, ...]."""
    views = []
    for index, tensor in enumerate(buffers.tensors):
        shape, dtype = tensor.shape_of(buffers.rows, buffers.capacity), np.dtype(tensor.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(buffers.address(index, 0))
        views.append(np.frombuffer(memory, dtype).reshape(shape))
    return views


def fill(buffers: CacheBuffers) -> list[Any]:
    """Write a number of its own into every element; what was written."""
    for view in views_of(buffers):
        view[...] = np.arange(1, 1 + view.size).reshape(view.shape) % 2000
    return [view.copy() for view in views_of(buffers)]


@pytest.fixture(params=["host", "cuda"])
def memory(request: pytest.FixtureRequest) -> Any:
    return HostCacheMemory() if request.param == "host" else CudaCacheMemory(0, Driver())


def test_buffers_are_zero_and_have_their_bytes(memory: Any) -> None:
    buffers = CacheBuffers(TENSORS, memory, 3, 5)
    assert buffers.nbytes == 3 * (6 * 4 * 2 + 5 * 4 * 4 + 2 * 3 * 5 * 4)
    assert not any(view.any() for view in views_of(buffers))


def test_growing_keeps_what_is_held_and_the_old_buffers(memory: Any) -> None:
    buffers = CacheBuffers(TENSORS, memory, 3, 5)
    ring, rows, buckets = fill(buffers)
    larger = buffers.resized(4, 9, {0: 5, 2: 3})
    new_ring, new_rows, new_buckets = views_of(larger)
    for row, tokens in ((0, 5), (2, 3)):
        np.testing.assert_array_equal(new_ring[row], ring[row])
        np.testing.assert_array_equal(new_rows[row, :tokens], rows[row, :tokens])
        np.testing.assert_array_equal(new_buckets[row, ..., :tokens], buckets[row, ..., :tokens])
        assert not new_rows[row, tokens:].any()
        assert not new_buckets[row, ..., tokens:].any()
    for new in (new_ring, new_rows, new_buckets):
        assert not new[[1, 3]].any()
    for view, before in zip(views_of(buffers), (ring, rows, buckets), strict=True):
        np.testing.assert_array_equal(view, before)


def test_a_row_is_moved_as_far_as_it_is_held(memory: Any) -> None:
    buffers = CacheBuffers(TENSORS, memory, 3, 5)
    ring, rows, buckets = fill(buffers)
    buffers.move_row(0, 2, 4)
    rows[0, :4], buckets[0, ..., :4], ring[0] = rows[2, :4], buckets[2, ..., :4], ring[2]
    for view, expected in zip(views_of(buffers), (ring, rows, buckets), strict=True):
        np.testing.assert_array_equal(view, expected)


def test_much_lies_in_large_pages_and_comes_back() -> None:
    """The buffer begins at a large page; its memory is zero, all of it can be written, and goes with it."""
    process = psutil.Process()
    size = 64 * 2**20
    before = process.memory_info().rss
    block = HostCacheMemory().allocate(size)
    assert block.address % 2**21 == 0
    view = np.frombuffer((ctypes.c_char * size).from_address(block.address), np.uint8)
    assert not view[:: 2**12].any()
    view[:] = 7
    assert process.memory_info().rss - before > size // 2
    del block, view
    gc.collect()
    assert process.memory_info().rss - before < size // 2


@pytest.mark.parametrize("size", [2**62, 2**70])
def test_more_than_there_is_is_one_line(size: int) -> None:
    with pytest.raises(InputError, match=f"^the caches: got {size} bytes, for which memory does not suffice"):
        HostCacheMemory().allocate(size)


@pytest.mark.parametrize(
    ("now", "needed", "capacity"),
    [
        (0, 1, 1024),
        (0, 1025, 2048),
        (1024, 1024, 1024),
        (1024, 1025, 2048),
        (4096, 4097, 6144),
        (0, 9000, 9000),
    ],
)
def test_the_capacity_grows_in_blocks_up_to_the_longest(now: int, needed: int, capacity: int) -> None:
    assert choose_capacity(now, needed, 9000) == capacity


def test_rows_grow_by_half() -> None:
    assert [choose_rows(now, now + 1) for now in (0, 1, 2, 4, 16)] == [1, 2, 3, 6, 24]
    assert (choose_rows(4, 3), choose_rows(2, 9)) == (4, 9)


def test_the_driver_waits_for_copies_and_gets_memory_back() -> None:
    driver = Driver()
    buffers = CacheBuffers(TENSORS, CudaCacheMemory(0, driver), 2, 5)
    assert len(driver.held) == 3
    buffers.move_row(0, 1, 5)
    assert driver.calls[-2:] == ["cuCtxSynchronize", "cuCtxPopCurrent_v2"]
    del buffers
    gc.collect()
    assert (driver.held, driver.contexts) == ({}, 0)


def test_a_driver_that_fails_is_one_line() -> None:
    driver = Driver()
    memory = CudaCacheMemory(0, driver)
    driver.failing = {"cuMemAlloc_v2": 2}
    with pytest.raises(InputError, match="got 96 bytes, for which the GPU's memory does not suffice"):
        CacheBuffers(TENSORS, memory, 2, 5)
    driver.failing = {"cuMemcpyDtoD_v2": 700}
    buffers = CacheBuffers(TENSORS, memory, 2, 5)
    with pytest.raises(RuntimeUnavailableError, match="got error 700 of NVIDIA's driver, expected none"):
        buffers.move_row(0, 1, 5)
    assert driver.contexts == 0
    driver.failing = {"cuInit": 100}
    with pytest.raises(RuntimeUnavailableError, match="error 100"):
        CudaCacheMemory(0, driver)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decoding_on_cuda_binds_device_buffers(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    """The whole state, its caches in the driver's memory: what comes out is what the CPU computes."""
    folder = decoding_artifact(dtype)
    with load(folder, native="off", threads=1) as model:
        expected = run_schedule(model)
    gpu, driver = stand_in(monkeypatch), Driver()
    monkeypatch.setattr(ort, "CudaCacheMemory", lambda device_id: CudaCacheMemory(device_id, driver))
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", 8)
    with load(folder, provider="cuda", device_id=None) as model:
        found = run_schedule(model)
        bound = [entry for entry in gpu.log if entry[0] == "device input" and entry[1].startswith("past.")]
        assert len(bound) % len(cache_tensors(model.spec, dtype)) == 0
        assert bound
    gc.collect()
    assert driver.held == {}
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def run_schedule(model: Any) -> list[Any]:
    """Joins, steps, growth, a leave and a refresh; all logits on the way."""
    found = []
    with model.start_decoding() as state:
        keys = [state.add(draw_ids(5 + 4 * i, seed=i)) for i in range(3)]
        for step in range(14):
            state.step(dict.fromkeys(keys[step % 2 :], 7 + step))
            found += [state.logits(key) for key in keys]
        state.remove(keys.pop(0))
        state.refresh(keys[0])
        state.step(dict.fromkeys(keys, 9))
        found += [state.logits(key) for key in keys]
    return found


def test_no_driver_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer_export.runtimes.cuda_context.DRIVER", "libnothing.so.1")
    with pytest.raises(RuntimeUnavailableError, match=r"libnothing\.so\.1"):
        CudaCacheMemory()
