"""A GPU in host memory for tests: it works late, and raises on what CUDA would not forgive.

Copies and launches are executed by `synchronize` only, so that a missing one shows in the numbers; fresh and
freed memory is filled with a pattern.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reformer_export.runtimes.tensorrt.cuda import CudaError

ALIGNMENT = 256
POISON = 0xCD


class MisuseError(AssertionError):
    """The program did what is undefined on a real GPU."""


@dataclass(frozen=True)
class Operation:
    """Work for a stream, and the memory that it touches: start addresses of blocks."""

    run: Callable[[], None]
    blocks: tuple[int, ...]


@dataclass
class Memory:
    kind: str
    size: int
    storage: NDArray[np.uint8]


@dataclass
class Stream:
    queue: list[Operation] = field(default_factory=list)
    owner: int | None = None
    recording: list[Operation] | None = None


class FakeCuda:
    """Stands in for a `CudaDevice`.

    `capacity` is the device's memory in bytes; `failures` maps a method's name to CUDA's name of the error
    that its next call has; `log` lists the names of the calls; `delay` is how long work takes, in seconds.
    """

    def __init__(self, capacity: int = 2**30) -> None:
        self.capacity = capacity
        self.failures: dict[str, str] = {}
        self.log: list[str] = []
        self.delay = 0.0
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self._numbers = itertools.count(1)
        self._active = threading.local()

    # What CudaDevice asks for

    def activate(self) -> None:
        self.log.append("activate")
        self._active.yes = True

    def allocate(self, size: int) -> int:
        self._enter("allocate")
        if size + self.used("device") > self.capacity:
            raise CudaError("cudaMalloc", "cudaErrorMemoryAllocation", "out of memory")
        return self._allocate("device", size)

    def free(self, address: int) -> None:
        self._free("free", "device", address)

    def allocate_pinned(self, size: int) -> int:
        self._enter("allocate_pinned")
        return self._allocate("pinned", size)

    def free_pinned(self, address: int) -> None:
        self._free("free_pinned", "pinned", address)

    def create_stream(self) -> int:
        self._enter("create_stream")
        number = next(self._numbers)
        self.streams[number] = Stream()
        return number

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        if self.streams.pop(stream).queue:
            raise MisuseError("a stream is destroyed while it has work")

    def copy_to_device(self, device: int, pinned: int, size: int, stream: int) -> None:
        self._enter("copy_to_device", capturable=True)
        self._copy(device, pinned, size, stream, "device", "pinned")

    def copy_to_host(self, pinned: int, device: int, size: int, stream: int) -> None:
        self._enter("copy_to_host", capturable=True)
        self._copy(pinned, device, size, stream, "pinned", "device")

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._enter("copy_on_device")
        self._copy(target, source, size, stream, "device", "device")

    def clear(self, address: int, size: int, stream: int) -> None:
        self._enter("clear")
        block = self.block_of(address, size, "device")
        self.enqueue(stream, Operation(lambda: self.write(address, bytes(size)), (block,)))

    def synchronize(self, stream: int) -> None:
        self._enter("synchronize")
        time.sleep(self.delay)
        queue, self.streams[stream].queue = self.streams[stream].queue, []
        for operation in queue:
            operation.run()
        self.streams[stream].owner = None

    def begin_capture(self, stream: int) -> None:
        self._enter("begin_capture")
        self.streams[stream].recording = []

    def end_capture(self, stream: int) -> int:
        recorded, self.streams[stream].recording = self.streams[stream].recording, None
        self._enter("end_capture")
        if recorded is None:
            raise MisuseError("no capture to end")
        number = next(self._numbers)
        self.graphs[number] = recorded
        return number

    def launch_graph(self, graph: int, stream: int) -> None:
        self._enter("launch_graph")
        for operation in self.graphs[graph]:
            self.enqueue(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        operations = self.graphs.pop(graph)
        if any(operation in operations for each in self.streams.values() for operation in each.queue):
            raise MisuseError("a graph is destroyed while it runs")
        self._enter("destroy_graph")  # a code may be that of work before, so that it is gone in any case

    # What the fake TensorRT and the tests ask for

    def used(self, kind: str) -> int:
        """Bytes of live memory of a kind, "device" or "pinned"."""
        return sum(memory.size for memory in self.memory.values() if memory.kind == kind)

    def is_capturing(self, stream: int) -> bool:
        return self.streams[stream].recording is not None

    def enqueue(self, stream: int, operation: Operation) -> None:
        for block in operation.blocks:
            if block not in self.memory:
                raise MisuseError(f"memory at {block:#x} is used after it was freed")
        state = self.streams[stream]
        if state.recording is not None:
            state.recording.append(operation)
            return
        if state.owner not in (None, threading.get_ident()):
            raise MisuseError("two threads use one stream, its buffers and its contexts at the same time")
        state.owner = threading.get_ident()
        state.queue.append(operation)

    def block_of(self, address: int, size: int, kind: str) -> int:
        """The start of the live block of `kind` that holds `size` bytes from `address` on."""
        for start, memory in self.memory.items():
            if memory.kind == kind and start <= address and address + size <= start + memory.size:
                return start
        raise MisuseError(f"{size} bytes at {address:#x} are not in one live block of {kind} memory")

    def read(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A copy of what lies at an address now."""
        data = ctypes.string_at(address, int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def _enter(self, name: str, capturable: bool = False) -> None:
        self.log.append(name)
        if not getattr(self._active, "yes", False):
            raise MisuseError(f"{name}: this thread did not choose the device")
        capturing = [stream for stream, state in self.streams.items() if state.recording is not None]
        if capturing and not capturable:
            raise MisuseError(f"{name} during a capture")
        if name in self.failures:
            raise CudaError(name, self.failures.pop(name), "a planted failure")

    def _allocate(self, kind: str, size: int) -> int:
        if size <= 0:
            raise MisuseError(f"an allocation of {size} bytes")
        storage = np.full(size + ALIGNMENT, POISON, np.uint8)
        address = -(-storage.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.memory[address] = Memory(kind, size, storage)
        return address

    def _free(self, name: str, kind: str, address: int) -> None:
        self._enter(name)
        if self.memory[address].kind != kind:
            raise MisuseError(f"{name} of {self.memory[address].kind} memory")
        queued = [operation for stream in self.streams.values() for operation in stream.queue]
        recorded = [operation for graph in self.graphs.values() for operation in graph]
        if any(address in operation.blocks for operation in (*queued, *recorded)):
            raise MisuseError("memory is freed while queued work or a graph uses it")
        self.memory[address].storage.fill(POISON)
        del self.memory[address]

    def _copy(self, to: int, source: int, size: int, stream: int, to_kind: str, source_kind: str) -> None:
        blocks = (self.block_of(to, size, to_kind), self.block_of(source, size, source_kind))
        self.enqueue(stream, Operation(lambda: _move(to, source, size), blocks))


def _move(to: int, source: int, size: int) -> None:
    ctypes.memmove(to, source, size)
