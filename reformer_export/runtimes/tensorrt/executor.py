"""Run an opened engine on one stream: contexts, buffers, copies, CUDA graphs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from reformer_export.artifact.engine_record import EngineProfile, Shape, format_shape
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.runtimes.tensorrt.buffers import TensorBuffers
from reformer_export.runtimes.tensorrt.contexts import EngineContexts
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.tensorrt.graphs import GraphCache
from reformer_export.runtimes.widen import narrow, widen

Shapes = dict[str, tuple[int, ...]]
"""By a tensor's name."""


class EngineExecutor:
    """One engine, ready to run; one request at a time, from one thread at a time."""

    def __init__(self, opened: OpenedEngine, cuda: CudaDevice, *, cuda_graphs: bool) -> None:
        """Make the stream; `close` releases it and everything else."""
        self._opened = opened
        self._cuda = cuda
        self._dtypes = {name: opened.numpy_dtype(name) for name in (*opened.inputs, *opened.outputs)}
        # TensorRT-RTX replaces kernels while it runs, and captures its own graphs at the right moments.
        runtime_captures = cuda_graphs and hasattr(opened.trt, "CudaGraphStrategy")
        self._captures = cuda_graphs and not runtime_captures
        self.notes: list[str] = []
        self._stream = cuda.create_stream()
        # A graph has addresses inside, so that none may outlive a block.
        self._graphs = GraphCache(cuda, self._stream)
        self._contexts = EngineContexts(
            opened, cuda, self._stream, self._graphs.clear, runtime_captures=runtime_captures
        )
        self._buffers = TensorBuffers(cuda, (*opened.inputs, *opened.outputs), self._graphs.clear)

    @property
    def profiles(self) -> tuple[EngineProfile, ...]:
        return self._opened.record.profiles

    def run(self, given: Mapping[str, NDArray[Any]], shape: Shape) -> dict[str, NDArray[Any]]:
        """One forward pass of the inputs by name, whose symbolic dimensions have the sizes `shape`; floats of
        the outputs in float32.

        Raises:
            InputError: no profile takes the shape.
            RuntimeUnavailableError: CUDA or TensorRT fails; the message has TensorRT's own reason.
        """
        profile = self._opened.record.find_profile(*shape)
        if profile is None:
            raise InputError(
                self._opened.inputs[0],
                f"shape {format_shape(shape)}",
                f"one within a profile of engine {self._opened.record.name} (from "
                f"{self._describe_profiles()})",
                "use another batch size or length, or build an engine with such a profile",
            )
        self._cuda.activate()
        input_shapes = {name: values.shape for name, values in given.items()}
        key = (profile, shape)
        graph = self._graphs.find(key)
        try:
            if graph is not None:
                self._write_inputs(given)
                self._graphs.launch(graph)
                output_shapes = graph.output_shapes
            else:
                context = self._contexts.find(profile)
                output_shapes = self._prepare(context, input_shapes)
                self._write_inputs(given)
                self._enqueue(context, input_shapes, output_shapes)
        except BaseException:
            # Nothing that was enqueued may outlive this call: the buffers are written and freed after it.
            with contextlib.suppress(ReformerExportError):  # the first error says what went wrong
                self._cuda.synchronize(self._stream)
            raise
        self._cuda.synchronize(self._stream)
        outputs = {name: self._read_output(name, output_shapes[name]) for name in self._opened.outputs}
        if graph is None and self._captures and self._graphs.comes_again(key):
            self._capture(key, context, input_shapes, output_shapes)
        return outputs

    def close(self) -> None:
        """Release graphs, contexts, buffers and the stream, whatever fails on the way."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._cuda.destroy_stream, self._stream)
            stack.callback(self._contexts.release)
            stack.callback(self._buffers.close)
            stack.callback(self._contexts.clear)
            stack.callback(self._graphs.clear)
            self._cuda.activate()

    def _describe_profiles(self) -> str:
        spans = [f"{format_shape(p.minimum)} to {format_shape(p.maximum)}" for p in self.profiles]
        return ", or from ".join(spans)

    def _prepare(self, context: Any, input_shapes: Shapes) -> Shapes:
        """Set shapes and addresses; the shapes of the outputs."""
        mark = self._opened.store.mark()
        what = self._describe(input_shapes)
        if not all(context.set_input_shape(name, shape) for name, shape in input_shapes.items()):
            raise self._contexts.failure(what, mark)
        unknown = context.infer_shapes()
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in self._opened.outputs}
        if unknown or any(size < 0 for shape in shapes.values() for size in shape):
            raise self._contexts.failure(f"{what} (shapes {shapes}, unknown {list(unknown)})", mark)
        sizes = {name: self._nbytes(name, shape) for name, shape in (input_shapes | shapes).items()}
        self._buffers.reserve(sizes)
        for name in sizes:
            if not context.set_tensor_address(name, self._buffers.device_address(name)):
                raise self._contexts.failure(f"{what}, the address of {name}", mark)
        return shapes

    def _describe(self, input_shapes: Shapes) -> str:
        name = self._opened.inputs[0]
        return f"{name} of shape {format_shape(input_shapes[name][:2])}"

    def _nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self._dtypes[name].itemsize

    def _write_inputs(self, given: Mapping[str, NDArray[Any]]) -> None:
        """Put the inputs into pinned memory; the stream must be idle."""
        for name, values in given.items():
            dtype = self._dtypes[name]
            self._buffers.view(name, values.shape, dtype)[...] = narrow(values, dtype)

    def _enqueue(self, context: Any, input_shapes: Shapes, output_shapes: Shapes) -> None:
        """Enqueue the copies to the device, the engine, and the copies back."""
        mark = self._opened.store.mark()
        buffers, stream = self._buffers, self._stream
        for name, shape in input_shapes.items():
            self._cuda.copy_to_device(
                buffers.device_address(name), buffers.pinned_address(name), self._nbytes(name, shape), stream
            )
        if not context.execute_async_v3(stream):
            raise self._contexts.failure(self._describe(input_shapes), mark)
        for name, shape in output_shapes.items():
            size = self._nbytes(name, shape)
            self._cuda.copy_to_host(buffers.pinned_address(name), buffers.device_address(name), size, stream)

    def _capture(
        self, key: tuple[int, Shape], context: Any, input_shapes: Shapes, output_shapes: Shapes
    ) -> None:
        """Capture a shape that has just run; when that fails, there are no more graphs."""
        try:
            self._graphs.capture(
                key, output_shapes, lambda: self._enqueue(context, input_shapes, output_shapes)
            )
        except ReformerExportError as error:
            self._captures = False
            self.notes.append(f"CUDA graphs are off, as this engine cannot be captured: {error}")

    def _read_output(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A copy of an output in pinned memory, floats as float32."""
        values = self._buffers.view(name, shape, self._dtypes[name])
        return widen(values) if self._opened.is_float(name) else values.copy()
