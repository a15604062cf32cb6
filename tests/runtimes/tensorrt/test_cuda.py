"""CUDA's return codes, with a stand-in for cuda-bindings; and the real one where there is no GPU."""

from __future__ import annotations

import types
from typing import Any

import pytest

from reformer_export.runtimes.tensorrt.cuda import CudaDevice, CudaError
from tests.runtimes.tensorrt.installed import require_cuda_bindings, require_no_driver

CALLS: dict[str, tuple[Any, ...]] = {
    "activate": (),
    "allocate": (1000,),
    "free": (4096,),
    "allocate_pinned": (1000,),
    "free_pinned": (4096,),
    "create_stream": (),
    "destroy_stream": (7,),
    "copy_to_device": (4096, 8192, 100, 7),
    "copy_to_host": (8192, 4096, 100, 7),
    "copy_on_device": (4096, 8448, 100, 7),
    "clear": (4096, 100, 7),
    "synchronize": (7,),
    "begin_capture": (7,),
    "end_capture": (7,),
    "launch_graph": (9,),
    "destroy_graph": (9,),
}
CALLS["launch_graph"] = (9, 7)
VALUES = {
    "cudaMalloc": (4096,),
    "cudaHostAlloc": (8192,),
    "cudaStreamCreateWithFlags": (7,),
    "cudaStreamEndCapture": (8,),
    "cudaGraphInstantiate": (9,),
}


class Cudart:
    """Every function of cuda.bindings.runtime: notes the call and returns a code and its value."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing = failing
        self.cudaError_t = types.SimpleNamespace(cudaSuccess=0)
        self.cudaMemcpyKind = types.SimpleNamespace(
            cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out", cudaMemcpyDeviceToDevice="on"
        )
        self.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")
        self.cudaHostAllocDefault = 0
        self.cudaStreamNonBlocking = 1

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> tuple[Any, ...]:
            if name == "cudaGetErrorString":
                return 0, b"out of luck"
            if name == "cudaGetErrorName":
                return 0, b"cudaErrorUnlucky"
            self.calls.append((name, *arguments))
            return (77 if name == self.failing else 0, *VALUES.get(name, ()))

        function.__name__ = name
        return function


def test_the_calls_and_their_values() -> None:
    cudart = Cudart()
    device = CudaDevice(cudart)
    values = {name: getattr(device, name)(*arguments) for name, arguments in CALLS.items()}
    assert {name: value for name, value in values.items() if value is not None} == {
        "allocate": 4096,
        "allocate_pinned": 8192,
        "create_stream": 7,
        "end_capture": 9,
    }
    assert cudart.calls == [
        ("cudaSetDevice", 0),
        ("cudaMalloc", 1000),
        ("cudaFree", 4096),
        ("cudaHostAlloc", 1000, 0),
        ("cudaFreeHost", 4096),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaStreamDestroy", 7),
        ("cudaMemcpyAsync", 4096, 8192, 100, "in", 7),
        ("cudaMemcpyAsync", 8192, 4096, 100, "out", 7),
        ("cudaMemcpyAsync", 4096, 8448, 100, "on", 7),
        ("cudaMemsetAsync", 4096, 0, 100, 7),
        ("cudaStreamSynchronize", 7),
        ("cudaStreamBeginCapture", 7, "local"),
        ("cudaStreamEndCapture", 7),
        ("cudaGraphInstantiate", 8, 0),
        ("cudaGraphDestroy", 8),
        ("cudaGraphLaunch", 9, 7),
        ("cudaGraphExecDestroy", 9),
    ]


@pytest.mark.parametrize("name", CALLS)
def test_every_return_code_is_looked_at(name: str) -> None:
    cudart = Cudart()
    getattr(CudaDevice(cudart), name)(*CALLS[name])
    for failing in {call[0] for call in cudart.calls}:
        with pytest.raises(CudaError, match=rf"CUDA, {failing}: got 'out of luck' \(cudaErrorUnlucky\), exp"):
            getattr(CudaDevice(Cudart(failing)), name)(*CALLS[name])


def test_a_recording_that_cannot_be_instantiated_is_destroyed() -> None:
    cudart = Cudart("cudaGraphInstantiate")
    with pytest.raises(CudaError, match="cudaGraphInstantiate"):
        CudaDevice(cudart).end_capture(7)
    assert cudart.calls[-1] == ("cudaGraphDestroy", 8)


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", CALLS)
def test_the_real_bindings_take_the_arguments(name: str) -> None:
    """Without a driver CUDA refuses every call, but only after the bindings accepted its arguments."""
    require_no_driver()
    device = CudaDevice(require_cuda_bindings())
    with pytest.raises(CudaError, match=r"cudaError(InsufficientDriver|NoDevice|StubLibrary)") as caught:
        getattr(device, name)(*CALLS[name])
    assert caught.value.name == "cudaErrorInsufficientDriver"
    assert "install NVIDIA's newest driver" in str(caught.value)
