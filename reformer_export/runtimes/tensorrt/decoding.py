"""An engine of decode.onnx on caches in the GPU's memory, which it reads and writes where they lie."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_INPUT_NAMES, DECODE_OUTPUT, CacheTensor
from reformer_export.artifact.engine_record import Shape, format_shape
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.runtimes.cache_buffers import CacheBuffers
from reformer_export.runtimes.cache_memory import Block
from reformer_export.runtimes.forks import release_with
from reformer_export.runtimes.options import Device
from reformer_export.runtimes.tensorrt.buffers import TensorBuffers
from reformer_export.runtimes.tensorrt.contexts import EngineContexts
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.widen import widen

ALIGNMENT: Final = 256
"""Bytes: what TensorRT asks of a tensor's address (NvInferRuntime.h, IExecutionContext::setTensorAddress)."""

_HOST_TYPES: Final = dict(zip(DECODE_INPUT_NAMES, (np.int64, np.int32, np.int32), strict=True))


class DeviceCacheMemory:
    """The memory of the GPU that an engine runs on, as a `CacheMemory`."""

    device: Device = "cuda"

    def __init__(self, cuda: CudaDevice) -> None:
        self._cuda = cuda
        cuda.activate()
        self._stream = cuda.create_stream()
        _release_with(self, cuda, cuda.destroy_stream, self._stream)

    def allocate(self, size: int) -> Block:
        self._cuda.activate()
        block = _DeviceBlock(self._cuda, self._cuda.allocate(size))
        self._cuda.clear(block.address, size, self._stream)
        self.wait()
        return block

    def copy(self, target: int, source: int, size: int) -> None:
        if size:
            self._cuda.activate()
            self._cuda.copy_on_device(target, source, size, self._stream)

    def wait(self) -> None:
        self._cuda.activate()
        self._cuda.synchronize(self._stream)


class _DeviceBlock:
    def __init__(self, cuda: CudaDevice, address: int) -> None:
        self.address = address
        _release_with(self, cuda, cuda.free, address)


def _release_with(owner: object, cuda: CudaDevice, release: Callable[[int], None], handle: int) -> None:
    """Release a handle when its owner is gone; not at the program's end, which releases all, nor at that of a
    forked child."""

    def give_back() -> None:
        with contextlib.suppress(ReformerExportError):  # that of a call before, which was told
            cuda.activate()
            release(handle)

    weakref.finalize(owner, give_back).atexit = False


class EngineCall:
    """A `DecodeCall` of an `EngineDecoder`."""

    def __init__(
        self, decoder: EngineDecoder, buffers: CacheBuffers, first_row: int, ids: NDArray[np.int64]
    ) -> None:
        self.ids = ids
        self.lengths = np.zeros(len(ids), np.int32)
        self.new_lengths = np.zeros(len(ids), np.int32)
        self.buffers = buffers
        self.first_row = first_row
        self._decoder = decoder

    @property
    def shape(self) -> Shape:
        """Batch and new tokens."""
        return self.ids.shape[0], self.ids.shape[1]

    def run(self) -> NDArray[np.float32]:
        return self._decoder.run(self)


class EngineDecoder:
    """A `Decoder` of one engine. Threads and states may share it: their calls run one after the other."""

    def __init__(
        self, opened: OpenedEngine, cuda: CudaDevice, tensors: Sequence[CacheTensor], vocab_size: int
    ) -> None:
        """Make the stream; `close`, or the end of the last state, releases it, all memory and the engine."""
        self.tensors = tuple(tensors)
        self.vocab_size = vocab_size
        self._opened = opened
        self._cuda = cuda
        self._logits_type = opened.numpy_dtype(DECODE_OUTPUT)
        self._lock = threading.Lock()
        self._bound: dict[int, weakref.ref[EngineCall]] = {}  # what each profile's context is set to
        with contextlib.ExitStack() as stack:
            stack.callback(opened.close)
            cuda.activate()
            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._contexts = EngineContexts(opened, cuda, self._stream, self._bound.clear)
            stack.callback(self._contexts.release)
            self._buffers = TensorBuffers(cuda, (*DECODE_INPUT_NAMES, DECODE_OUTPUT), self._bound.clear)
            stack.callback(self._buffers.close)
            stack.callback(self._contexts.clear)
            stack.callback(cuda.activate)
            self._release = release_with(self, stack.pop_all().close)

    def bind(self, buffers: CacheBuffers, first_row: int, ids: NDArray[np.int64]) -> EngineCall:
        return EngineCall(self, buffers, first_row, ids)

    def run(self, call: EngineCall) -> NDArray[np.float32]:
        """`EngineCall.run`.

        Raises:
            InputError: no profile takes the shape, or the caches are larger than the engine's.
            RuntimeUnavailableError: CUDA or TensorRT fails; the message has TensorRT's own reason.
        """
        with self._lock:
            if not self._release.alive:
                raise InputError("decoding", "a closed model", "an open one", "load it again")
            profile = self._find_profile(call)
            self._cuda.activate()
            if self._is_aligned(call):
                return self._run_in_place(call, profile)
            return self._run_aside(call, profile)

    def close(self) -> None:
        """Release the engine and its memory, after a call that is running."""
        with self._lock:
            self._release()

    def _find_profile(self, call: EngineCall) -> int:
        record = self._opened.record
        profile = record.find_profile(*call.shape)
        if profile is None:
            spans = (f"{format_shape(p.minimum)} to {format_shape(p.maximum)}" for p in record.profiles)
            raise InputError(
                "decoding",
                f"{format_shape(call.shape)} new tokens",
                f"some within a profile of engine {record.name} (from {', or from '.join(spans)})",
                "decode fewer or shorter prompts at once, or build an engine with such a profile",
            )
        if call.buffers.capacity > record.longest:
            got = f"caches for {call.buffers.capacity} tokens"
            expected = f"at most {record.longest}, the capacity of engine {record.name}"
            raise InputError("decoding", got, expected, "build an engine with a greater `capacity`")
        return profile

    def _is_aligned(self, call: EngineCall) -> bool:
        """Whether the rows of all caches begin where TensorRT wants a tensor to."""
        indices = range(len(self.tensors))
        return all(call.buffers.address(index, call.first_row) % ALIGNMENT == 0 for index in indices)

    def _run_aside(self, call: EngineCall, profile: int) -> NDArray[np.float32]:
        """Run on a copy of the rows, which is copied back."""
        source, batch = call.buffers, len(call.ids)
        aside = CacheBuffers(self.tensors, source.memory, batch, source.capacity)
        for row in range(batch):
            aside.copy_row(row, source, call.first_row + row, int(call.lengths[row]))
        source.memory.wait()
        copy = EngineCall(self, aside, 0, call.ids)
        copy.lengths, copy.new_lengths = call.lengths, call.new_lengths
        logits = self._run_in_place(copy, profile)
        for row in range(batch):
            held = int(call.lengths[row] + call.new_lengths[row])
            source.copy_row(call.first_row + row, aside, row, held)
        source.memory.wait()
        return logits

    def _run_in_place(self, call: EngineCall, profile: int) -> NDArray[np.float32]:
        try:
            context = self._prepare(call, profile)
            self._enqueue(context, call)
        except BaseException:
            # Nothing that was enqueued may outlive this call: the buffers are written and freed after it.
            with contextlib.suppress(ReformerExportError):  # the first error says what went wrong
                self._cuda.synchronize(self._stream)
            raise
        self._cuda.synchronize(self._stream)
        shape = (len(call.ids), self.vocab_size)
        return widen(self._buffers.view(DECODE_OUTPUT, shape, self._logits_type))

    def _prepare(self, call: EngineCall, profile: int) -> Any:
        """The profile's context with the call's shapes and addresses."""
        batch = len(call.ids)
        sizes = {name: values.nbytes for name, values in self._host_inputs(call)}
        self._buffers.reserve(sizes | {DECODE_OUTPUT: batch * self.vocab_size * self._logits_type.itemsize})
        context = self._contexts.find(profile)
        bound = self._bound.pop(profile, None)
        if bound is not None and bound() is call:
            self._bound[profile] = bound
            return context
        mark, what = self._opened.store.mark(), f"{format_shape(call.shape)} new tokens"
        shapes = {name: values.shape for name, values in self._host_inputs(call)}
        shapes |= {each.input: each.shape_of(batch, call.buffers.capacity) for each in self.tensors}
        if not all(context.set_input_shape(name, shape) for name, shape in shapes.items()):
            raise self._contexts.failure(what, mark)
        if unknown := list(context.infer_shapes()):
            raise self._contexts.failure(f"{what} (unknown shapes of {unknown})", mark)
        names = (*DECODE_INPUT_NAMES, DECODE_OUTPUT)
        addresses = {name: self._buffers.device_address(name) for name in names}
        for index, tensor in enumerate(self.tensors):
            # The same for both: the plugins see it, and write the new tokens only.
            addresses[tensor.input] = addresses[tensor.output] = call.buffers.address(index, call.first_row)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._contexts.failure(f"{what}, the address of {name}", mark)
        self._bound[profile] = weakref.ref(call)
        return context

    def _enqueue(self, context: Any, call: EngineCall) -> None:
        """Enqueue the copies to the device, the engine, and the copy of the logits back."""
        mark, buffers = self._opened.store.mark(), self._buffers
        for name, values in self._host_inputs(call):
            buffers.view(name, values.shape, _HOST_TYPES[name])[...] = values
            place = buffers.device_address(name), buffers.pinned_address(name)
            self._cuda.copy_to_device(*place, values.nbytes, self._stream)
        if not context.execute_async_v3(self._stream):
            raise self._contexts.failure(f"{format_shape(call.shape)} new tokens", mark)
        size = math.prod((len(call.ids), self.vocab_size, self._logits_type.itemsize))
        pinned, device = buffers.pinned_address(DECODE_OUTPUT), buffers.device_address(DECODE_OUTPUT)
        self._cuda.copy_to_host(pinned, device, size, self._stream)

    def _host_inputs(self, call: EngineCall) -> list[tuple[str, NDArray[Any]]]:
        return list(zip(DECODE_INPUT_NAMES, (call.ids, call.lengths, call.new_lengths), strict=True))
