"""Which GPU runs the model: its index reaches every library that is asked for memory or work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries import gpus
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.runtimes import RuntimeOptions, load, ort
from reformer_export.runtimes.ort_session import CPU, CUDA, Placement
from reformer_export.runtimes.pinned import PinnedBuffers
from reformer_export.runtimes.tensorrt import runtime as tensorrt_runtime
from reformer_export.workflows.verify import VerifyRequest
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.cuda_stand_in import GpuArray, stand_in
from tests.runtimes.tensorrt.engines import make_artifact, make_machine, write_library
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import FakeTensorRT

TWO = tuple(gpus.Gpu(f"GPU {index}", ComputeCapability(8, 9), 2**34) for index in range(2))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find_gpus", lambda: TWO)


def test_the_provider_is_told() -> None:
    assert Placement(CUDA, device_id=1).providers == [(CUDA, {"use_tf32": "0", "device_id": "1"}), (CPU, {})]
    assert Placement(CUDA).providers[0] == (CUDA, {"use_tf32": "0"})


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_found_by_its_index() -> None:
    assert [gpus.find_gpu(index) for index in (None, 0, 1)] == [TWO[0], *TWO]
    with pytest.raises(RuntimeUnavailableError, match="device_id: got 2, expected 0 to 1, of the GPUs"):
        gpus.find_gpu(2)


@pytest.mark.usefixtures("two_gpus")
def test_onnx_runtime_s_memory_is_on_that_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in(monkeypatch)
    pinned: list[int] = []

    def open_buffers(device_id: int) -> PinnedBuffers:
        pinned.append(device_id)
        return PinnedBuffers(gpu.pages)

    monkeypatch.setattr(ort, "open_pinned_buffers", open_buffers)
    out = write_artifact(tmp_path / "out", dtype="float16")
    ids = np.array([[5, 6, 7]])
    with load(out, provider="cuda", native="off", device_id=1) as model:
        model.run(GpuArray(ids, index=1), device="cuda")
        with pytest.raises(InputError, match="the GPU that the model runs on"):
            model.run(GpuArray(ids, index=0))
    assert pinned == [1]
    assert {placement.device_id for placement in gpu.placements} == {1}  # the casts' graphs too


@pytest.mark.usefixtures("two_gpus")
def test_one_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    out = write_artifact(tmp_path / "out")
    with pytest.raises(RuntimeUnavailableError, match="device_id: got 2, expected 0 to 1"):
        load(out, provider="cuda", native="off", device_id=2)


def test_tensorrt_uses_that_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = write_library(tmp_path)
    out = make_artifact(tmp_path, library)
    asked: list[Any] = []
    cuda = FakeCuda()

    def examine(*arguments: Any) -> Any:
        asked.append(arguments)
        return make_machine(library)

    def open_device(_module: Any, index: int) -> FakeCuda:
        asked.append(index)
        return cuda

    monkeypatch.setattr(tensorrt_runtime, "examine_gpu_machine", examine)
    monkeypatch.setattr(tensorrt_runtime, "import_cuda", lambda: None)
    monkeypatch.setattr(tensorrt_runtime, "CudaDevice", open_device)
    options = RuntimeOptions("tensorrt", device_id=1)
    with tensorrt_runtime.TensorRTRuntime(out, options, trt=FakeTensorRT(cuda)):
        pass
    assert asked == [("tensorrt", 1), 1]


@pytest.mark.parametrize("value", [-1, 1.0, True, "0"])
def test_what_is_no_index(value: Any) -> None:
    with pytest.raises(InputError, match="device_id: got"):
        RuntimeOptions(device_id=value)


def test_the_cpu_has_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device_id: got it with the CPU, expected CUDA"):
        RuntimeOptions(provider="cpu", device_id=0)
    outcome = run_program("run", write_artifact(tmp_path / "out"), "--ids", "5", "--device-id", 1)
    if "Note: GPU 1 is not used: the model runs on the CPU." not in outcome.stderr:
        pytest.skip("this machine has CUDA")
    assert outcome.status == 0


def test_every_workflow_passes_it_on() -> None:
    request = VerifyRequest(device_id=1, runtimes=("onnxruntime", "tensorrt"))
    assert [request.options_of(name).device_id for name in request.runtimes] == [1, 1]
