"""The C interface on each kind of device, so that one test body holds for the CPU's kernels and for CUDA's.

"cpu" runs always, and so tries the tests themselves. "cuda" runs with `-m gpu` on a machine that has a GPU.
"emulated" are the CUDA kernels' sources on the emulated device, in host memory: slow, so for small shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from benchmarks.gpu_timing import capture
from reformer_export.libraries.operators import NativeLibrary, describe_library, find_native_library
from reformer_export.ops.native_kernels import Allocate, Backend, NativeKernels, allocate_workspace
from tests.ops.backends import NATIVE_NAMES, REFERENCES, require_native
from tests.required import skip_unless_required

DEVICES: Final = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ALL_DEVICES: Final = [*DEVICES, "emulated"]
EMULATED_LIBRARY: Final = Path(
    os.environ.get("REFORMER_EMULATED_LIBRARY")
    or Path(__file__).parents[2] / "build/host/tests/python/libreformer_emulated.so"
)

DTYPES: Final = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCES: Final = {torch.int32: 0.0, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Absolute and relative: on CUDA the probabilities of the 16-bit types are rounded to them too."""


@dataclass(frozen=True)
class DeviceKernels:
    """A library's kernels of one backend, and the torch device whose memory they take."""

    library: NativeLibrary
    backend: Backend
    device: torch.device
    allocate: Allocate = allocate_workspace

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_emulated(self) -> bool:
        return self.backend == "cuda" and not self.is_cuda

    @property
    def kernels(self) -> NativeKernels:
        return NativeKernels(self.library, self.backend, self.allocate)

    def put(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.to(self.device) for tensor in tensors]

    def run(self, operator: str, tensors: Sequence[torch.Tensor], attributes: dict[str, Any]) -> Any:
        """The operator on tensors of any device; its result, or the tuple of its results, on the CPU."""
        run: Callable[..., Any] = getattr(self.kernels, NATIVE_NAMES[operator])
        results = run(*self.put(tensors), *attributes.values())
        return tuple(x.cpu() for x in results) if isinstance(results, tuple) else results.cpu()

    def capture(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        """Record `run` in a CUDA graph; the CPU, which has none, calls it again. Returns a replay, and where
        its result appears."""
        if not self.is_cuda:
            target = run()
            return lambda: target.copy_(run()), target
        return capture(run)

    def run_together(self, jobs: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
        """Each job on a stream of its own, all enqueued before any is waited for; on the CPU, in threads."""
        if not self.is_cuda:
            with ThreadPoolExecutor(len(jobs)) as pool:
                return list(pool.map(lambda job: job(), jobs))
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in jobs]
        results = []
        for job, stream in zip(jobs, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(job())
        torch.cuda.synchronize()
        return results


def open_kernels(name: str, allocate: Allocate = allocate_workspace) -> DeviceKernels:
    """Skips where the device or kernels for it are missing; with REQUIRE_GPU=1 (make gpu-check) it fails."""
    cpu = torch.device("cpu")
    if name == "emulated":
        if not EMULATED_LIBRARY.is_file():
            skip_unless_required(f"no {EMULATED_LIBRARY.name}: make test-native builds it")
        return DeviceKernels(describe_library(EMULATED_LIBRARY), "cuda", cpu, allocate)
    if name == "cuda" and (problem := _find_cuda_problem()):
        if os.environ.get("REQUIRE_GPU"):
            pytest.fail(problem)
        pytest.skip(problem)
    if name == "cuda":
        return DeviceKernels(require_native(), "cuda", torch.device("cuda", 0), allocate)
    return DeviceKernels(require_native(), "cpu", cpu, allocate)


def _find_cuda_problem() -> str | None:
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    library = find_native_library("auto")
    capability = torch.cuda.get_device_capability(0)
    if library is None or not library.has_code_for(*capability):
        return f"no native library with CUDA kernels for compute capability {capability}: got {library}"
    return None


def run_reference(operator: str, tensors: Sequence[torch.Tensor], attributes: dict[str, Any]) -> Any:
    """The operator's PyTorch reference, on the CPU: its result, or the tuple of its results."""
    return REFERENCES[operator](*tensors, *attributes.values())


def join(results: Any) -> torch.Tensor:
    """A result as it is, the tuple of several as one tensor of bytes."""
    if isinstance(results, torch.Tensor):
        return results
    return torch.cat([tensor.contiguous().view(torch.uint8).flatten() for tensor in results])


def assert_close(got: Any, expected: Any) -> None:
    """Every element of a result or of a tuple of results, with the tolerance of the dtype."""
    if isinstance(expected, tuple):
        for one, wanted in zip(got, expected, strict=True):
            assert_close(one, wanted)
        return
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
