"""The CUDA calls that running an engine takes, through NVIDIA's cuda-bindings; every return code is checked.

Memory addresses and handles are plain integers here, as TensorRT's Python interface takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from reformer_export.errors import RuntimeUnavailableError

_OUT_OF_MEMORY: Final = "cudaErrorMemoryAllocation"
_FIXES: Final = {
    _OUT_OF_MEMORY: "use a smaller batch, shorter rows, or a GPU with more free memory",
    "cudaErrorInsufficientDriver": (
        "install NVIDIA's newest driver for this GPU, or cuda-bindings of the driver's CUDA version, e.g. "
        "pip install 'cuda-bindings<13'"
    ),
}


class CudaError(RuntimeUnavailableError):
    """A CUDA call failed. `name` is CUDA's own, such as "cudaErrorNoDevice"."""

    def __init__(self, function: str, name: str, text: str) -> None:
        fix = _FIXES.get(name, "see `reformer-export doctor`; after a failed launch, start the program again")
        super().__init__(f"CUDA, {function}", f"'{text}' ({name})", "success", fix)
        self.name = name

    @property
    def is_out_of_memory(self) -> bool:
        return self.name == _OUT_OF_MEMORY


class CudaDevice:
    """One GPU through the module `cuda.bindings.runtime`: memory, a stream's work and graphs.

    Sizes are in bytes; every method may raise CudaError.
    """

    def __init__(self, cudart: Any, index: int = 0) -> None:
        self._cudart = cudart
        self._index = index

    def activate(self) -> None:
        """Make it the calling thread's device."""
        self._call(self._cudart.cudaSetDevice, self._index)

    def allocate(self, size: int) -> int:
        """Device memory, aligned to 256 bytes."""
        return int(self._call(self._cudart.cudaMalloc, size))

    def free(self, address: int) -> None:
        self._call(self._cudart.cudaFree, address)

    def allocate_pinned(self, size: int) -> int:
        """Host memory that the GPU copies from and to without a detour."""
        return int(self._call(self._cudart.cudaHostAlloc, size, self._cudart.cudaHostAllocDefault))

    def free_pinned(self, address: int) -> None:
        self._call(self._cudart.cudaFreeHost, address)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call(self._cudart.cudaStreamCreateWithFlags, self._cudart.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call(self._cudart.cudaStreamDestroy, stream)

    def copy_to_device(self, device: int, pinned: int, size: int, stream: int) -> None:
        """Enqueue a copy from pinned to device memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cudart.cudaMemcpyAsync, device, pinned, size, kind, stream)

    def copy_to_host(self, pinned: int, device: int, size: int, stream: int) -> None:
        """Enqueue a copy from device to pinned memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cudart.cudaMemcpyAsync, pinned, device, size, kind, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy within device memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call(self._cudart.cudaMemcpyAsync, target, source, size, kind, stream)

    def clear(self, address: int, size: int, stream: int) -> None:
        """Enqueue zeros into device memory."""
        self._call(self._cudart.cudaMemsetAsync, address, 0, size, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was enqueued is done."""
        self._call(self._cudart.cudaStreamSynchronize, stream)

    def begin_capture(self, stream: int) -> None:
        """From here on, what this thread enqueues on `stream` is recorded, not executed."""
        # Thread-local: an allocation in another thread of the program does not end the recording.
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cudart.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        """Stop recording; an executable graph of what was recorded."""
        recorded = self._call(self._cudart.cudaStreamEndCapture, stream)
        try:
            return int(self._call(self._cudart.cudaGraphInstantiate, recorded, 0))
        finally:
            self._call(self._cudart.cudaGraphDestroy, recorded)

    def launch_graph(self, graph: int, stream: int) -> None:
        """Enqueue everything the graph holds."""
        self._call(self._cudart.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call(self._cudart.cudaGraphExecDestroy, graph)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """The function's value, or CudaError when its return code is not success."""
        code, *values = function(*arguments)
        if code != self._cudart.cudaError_t.cudaSuccess:
            text = self._cudart.cudaGetErrorString(code)[1].decode()
            name = self._cudart.cudaGetErrorName(code)[1].decode()
            raise CudaError(function.__name__, name, text)
        return values[0] if values else None
