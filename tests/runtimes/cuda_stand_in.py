"""A CUDA provider that computes on the CPU: what is asked of ONNX Runtime is written down, then done here."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from numpy.typing import NDArray

from reformer_export.libraries.operators import NativeLibrary
from reformer_export.runtimes import ort, ort_binding, ort_session
from reformer_export.runtimes.ort_session import CPU, CUDA, Placement
from reformer_export.runtimes.pinned import PinnedBuffers

open_on_cpu = ort_session.open_session
open_bytes_on_cpu = ort_session.open_graph_bytes


class HostPages:
    """Memory that only looks page-locked; `held` by address."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def allocate(self, size: int) -> int | None:
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block)
        self.held[address] = block
        return address

    def free(self, address: int) -> None:
        del self.held[address]


class Binding:
    """A binding whose GPU is the CPU."""

    def __init__(self, real: Any, log: list[tuple[Any, ...]]) -> None:
        self.real, self._log = real, log
        self.devices: set[int] = set()

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        self._log.append(("host input", name, array.dtype.name))
        self.real.bind_cpu_input(name, array)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self._log.append(("device input", name, value.data_ptr()))
        self.real.bind_ortvalue_input(name, value)

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        assert device in ("cuda", "cpu")
        if device == "cuda":
            self.devices.add(index)
        self._log.append((f"{'device' if device == 'cuda' else 'host'} input", name, address))
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name: str, device: str = "cpu", *where: Any) -> None:
        self._log.append(("output", name, device, *where[3:]))
        self.real.bind_output(name, "cpu", *where)

    def clear_binding_outputs(self) -> None:
        self.real.clear_binding_outputs()

    def synchronize_inputs(self) -> None:
        self._log.append(("wait",))

    def get_outputs(self) -> Any:
        return self.real.get_outputs()


class Session:
    """A session of the CPU that says that it is CUDA's."""

    def __init__(self, real: Any, log: list[tuple[Any, ...]]) -> None:
        self._real, self._log = real, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def io_binding(self) -> Binding:
        return Binding(self._real.io_binding(), self._log)

    def run_with_iobinding(self, binding: Binding) -> None:
        self._log.append(("run",))
        self._real.run_with_iobinding(binding.real)

    def run(self, *_arguments: Any) -> None:
        raise AssertionError("every value is bound")


@dataclass
class Gpu:
    """What was opened and done: `placements` of sessions, and the `log` of their bindings."""

    placements: list[Placement] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    pages: HostPages = field(default_factory=HostPages)
    library: NativeLibrary | None = None

    def open_session(self, model: Path, placement: Placement, **_options: Any) -> Session:
        self.placements.append(placement)
        return Session(open_on_cpu(model), self.log)

    def open_graph_bytes(self, model: bytes, placement: Placement) -> Session:
        self.placements.append(placement)
        return Session(open_bytes_on_cpu(model, Placement()), self.log)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A GPU for `reformer_export.load`, for one test."""
    gpu = Gpu()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "open_session", gpu.open_session)
    monkeypatch.setattr(ort, "find_native_library", lambda mode: gpu.library)
    monkeypatch.setattr(ort, "open_pinned_buffers", lambda device_id: PinnedBuffers(gpu.pages))
    monkeypatch.setattr(ort_binding, "open_graph_bytes", gpu.open_graph_bytes)
    return gpu


class GpuArray:
    """An array that says that it is on a GPU, for DLPack; `index` is the GPU's."""

    def __init__(self, values: NDArray[Any], index: int = 0) -> None:
        self.values, self._index = values, index

    def __dlpack__(self, **_options: Any) -> Any:
        return self.values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._index


class CudaArrayInterface:
    """An array of a library that has no DLPack."""

    def __init__(self, values: NDArray[Any], strides: tuple[int, ...] | None = None) -> None:
        self._values = values
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (values.ctypes.data, False),
            "strides": strides,
        }
