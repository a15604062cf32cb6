"""Runs on CUDA: what is bound, what is cast where, and what of it a caller sees; the GPU is a stand-in."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer_export.errors import InputError
from reformer_export.runtimes import load
from reformer_export.runtimes.device_arrays import DeviceArray
from tests.runtimes.artifacts import next_token_table, write_artifact
from tests.runtimes.cuda_stand_in import CudaArrayInterface, Gpu, GpuArray, stand_in
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library

IDS = np.array([[5, 6, 7], [9, 9, 257]])
LOGITS = next_token_table(258)[IDS]
NO_KERNELS = (
    "Generic operators run on CUDA in place of the native kernels, 27 times slower than eager where it was "
    "measured (H200, 12 layers, 16,384 tokens): no native library is installed. "
    "`reformer-export build-library --cuda` builds them for this GPU."
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


def outputs_of(gpu: Gpu) -> list[tuple[Any, ...]]:
    """(name, device) of each output that was bound, and its address where it has memory of ours."""
    return [entry[1:] for entry in gpu.log if entry[0] == "output"]


def test_float32_comes_to_pinned_memory_in_one_run(tmp_path: Path, gpu: Gpu) -> None:
    with load(write_artifact(tmp_path / "out"), provider="cuda") as model:
        logits = model.run(IDS)["logits"]
    np.testing.assert_array_equal(logits, LOGITS)
    assert gpu.log == [
        ("host input", "input_ids", "int64"),
        ("host input", "attention_mask", "int64"),
        ("output", "logits", "cpu", logits.ctypes.data),
        ("run",),
    ]
    assert len(gpu.pages.held) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float32_of_another_type_is_made_on_the_device(tmp_path: Path, gpu: Gpu, dtype: Any) -> None:
    table = np.full((258, 258), 1 + 2**-7, np.float32)  # exact in bfloat16, not in less
    with load(write_artifact(tmp_path / "out", dtype=dtype, table=table), provider="cuda") as model:
        logits = model.run(IDS)["logits"]
        assert (model.notes, model.manifest.dtype) == ([NO_KERNELS], dtype)
    assert (logits == 1 + 2**-7).all()
    assert (logits.dtype, logits.shape) == (np.float32, (2, 3, 258))
    assert outputs_of(gpu) == [("logits", "cuda"), ("y", "cpu", logits.ctypes.data)]
    assert [entry for entry in gpu.log if entry[0] == "run"] == [("run",)] * 2
    assert [placement.provider for placement in gpu.placements] == ["CUDAExecutionProvider"] * 2


def test_the_cast_is_opened_once(tmp_path: Path, gpu: Gpu) -> None:
    with load(write_artifact(tmp_path / "out", dtype="float16"), provider="cuda") as model:
        for _ in range(3):
            np.testing.assert_array_equal(model.run(IDS)["logits"], LOGITS)
    assert len(gpu.placements) == 2


def test_float16_comes_as_it_is_to_who_asks_for_it(tmp_path: Path, gpu: Gpu) -> None:
    with load(write_artifact(tmp_path / "out", dtype="float16"), provider="cuda") as model:
        logits = model.run(IDS, dtype="float16")["logits"]
    assert logits.dtype == np.float16
    np.testing.assert_array_equal(logits, LOGITS)
    assert outputs_of(gpu) == [("logits", "cpu", logits.ctypes.data)]
    assert len(gpu.placements) == 1


def test_a_later_run_leaves_what_a_caller_holds(tmp_path: Path, gpu: Gpu) -> None:
    """And uses again what nobody holds: a view of it counts as holding it."""
    with load(write_artifact(tmp_path / "out"), provider="cuda") as model:
        first = model.run([[5, 6]])["logits"]
        view = model.run([[7, 8]])["logits"][0, 1]
        dropped = model.run([[9, 10]])["logits"].ctypes.data
        gc.collect()
        again = model.run([[11, 12]])["logits"]
    assert [row.argmax() for row in (first[0, 0], first[0, 1], view, again[0, 0])] == [6, 7, 9, 12]
    assert again.ctypes.data == dropped
    assert len(gpu.pages.held) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_outputs_stay_on_the_gpu(tmp_path: Path, gpu: Gpu, dtype: Any) -> None:
    out = write_artifact(tmp_path / "out", dtype=dtype)
    with load(out, provider="cuda") as model:
        own = model.run(IDS, device="cuda", dtype=dtype)["logits"]
        wide = model.run(IDS, device="cuda")["logits"]
    assert isinstance(own, DeviceArray)
    assert (own.shape, own.dtype, own.device) == ((2, 3, 258), dtype, "cuda")
    assert (wide.shape, wide.dtype) == ((2, 3, 258), "float32")
    casts = [] if dtype == "float32" else [("y", "cuda")]
    assert outputs_of(gpu) == [("logits", "cuda")] * 2 + casts
    assert torch.from_dlpack(own).dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(torch.from_dlpack(own).float().numpy(), LOGITS)
    np.testing.assert_array_equal(torch.from_dlpack(wide).numpy(), LOGITS)


def test_what_stays_outlives_the_model(tmp_path: Path, gpu: Gpu) -> None:
    with load(write_artifact(tmp_path / "out"), provider="cuda") as model:
        tensor = torch.from_dlpack(model.run(IDS, device="cuda")["logits"])
        other = model.run(IDS[::-1], device="cuda")["logits"]
    del model
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), LOGITS)
    np.testing.assert_array_equal(torch.from_dlpack(other).numpy(), LOGITS[::-1])


@pytest.mark.parametrize("kind", [GpuArray, CudaArrayInterface])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_ids_on_the_gpu_are_bound_where_they_lie(tmp_path: Path, gpu: Gpu, kind: Any, dtype: Any) -> None:
    ids, mask = IDS.astype(dtype), np.ones(IDS.shape, dtype)
    with load(write_artifact(tmp_path / "out"), provider="cuda") as model:
        logits = model.run(kind(ids), kind(mask))["logits"]
    np.testing.assert_array_equal(logits, LOGITS)
    bound = [entry for entry in gpu.log if entry[0] == "device input"]
    addresses = [ids.ctypes.data, mask.ctypes.data]
    if dtype == np.int64:
        assert [entry[1:] for entry in bound] == [
            ("input_ids", addresses[0]),
            ("attention_mask", addresses[1]),
        ]
    else:  # cast to int64 there
        assert [entry[2] for entry in bound if entry[1] == "x"] == addresses
        assert [entry[1] for entry in bound] == ["x", "input_ids", "x", "attention_mask"]
    assert not [entry for entry in gpu.log if entry[0] == "host input"]
    assert gpu.log.index(("wait",)) < gpu.log.index(("run",)), "the caller's work comes first"


def test_ids_on_the_gpu_without_a_mask_get_one(tmp_path: Path, gpu: Gpu) -> None:
    out = write_artifact(tmp_path / "out", logits="last")
    with load(out, provider="cuda") as model:
        logits = model.run(GpuArray(IDS), device="cuda")["logits"]
    assert torch.from_dlpack(logits)[:, 0].argmax(-1).tolist() == [8, 0]
    assert ("host input", "attention_mask", "int64") in gpu.log


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (GpuArray(IDS, 1), None, "input_ids: got an array on device 1"),
        (
            GpuArray(IDS.astype(np.float32)),
            None,
            r"input_ids: got tensor\(float\) on the GPU, expected int64",
        ),
        (GpuArray(IDS[0]), None, r"input_ids: got shape \[3\]"),
        (GpuArray(IDS[:, :0]), None, r"input_ids: got shape \[2, 0\]"),
        (GpuArray(np.zeros((1, 65), np.int64)), None, "input_ids: got 65 tokens, expected at most 64"),
        (GpuArray(IDS), GpuArray(IDS[:1]), r"attention_mask: got shape \[1, 3\], .* with batch = 2"),
        (
            GpuArray(IDS),
            np.ones_like(IDS),
            "input_ids: got an array on a GPU, and attention_mask on the host",
        ),
        (IDS, GpuArray(IDS), "attention_mask: got an array on a GPU, and input_ids on the host"),
        (GpuArray(IDS.T), None, "input_ids: got '.*contiguous"),
        (CudaArrayInterface(IDS, (8, 16)), None, r"input_ids: got strides \(8, 16\)"),
        (CudaArrayInterface(IDS.astype(np.uint8)), None, r"input_ids: got tensor\(uint8\)"),
    ],
)
def test_arrays_on_the_gpu_that_do_not_fit(
    tmp_path: Path, gpu: Gpu, ids: Any, mask: Any, message: str
) -> None:
    out = write_artifact(tmp_path / "out")
    with load(out, provider="cuda") as model, pytest.raises(InputError, match=message):
        model.run(ids, mask)
    assert ("run",) not in gpu.log


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "gpu"}, "device: got 'gpu', expected cpu or cuda"),
        ({"device": None}, "device: got None"),
        ({"dtype": "float16"}, "dtype: got 'float16', expected float32 or bfloat16"),
        ({"dtype": "bfloat16"}, 'dtype: got bfloat16 on the host.*`device="cuda"`'),
    ],
)
def test_places_that_there_are_not(tmp_path: Path, gpu: Gpu, asked: Any, message: str) -> None:
    out = write_artifact(tmp_path / "out", dtype="bfloat16")
    with load(out, provider="cuda") as model, pytest.raises(InputError, match=message):
        model.run(IDS, **asked)
    assert ("run",) not in gpu.log


def test_a_model_on_the_cpu_takes_and_gives_arrays_of_the_host(tmp_path: Path) -> None:
    with load(write_artifact(tmp_path / "out", dtype="float16"), provider="cpu") as model:
        with pytest.raises(InputError, match="device: got 'cuda', expected cpu from this runtime here"):
            model.run(IDS, device="cuda")
        with pytest.raises(InputError, match="input_ids: got an array on a GPU, expected one of the host"):
            model.run(GpuArray(IDS))
        assert model.run(IDS, dtype="float16")["logits"].dtype == np.float16
        np.testing.assert_array_equal(model.run(torch.from_numpy(IDS))["logits"], LOGITS)


def test_an_engine_takes_and_gives_arrays_of_the_host(tmp_path: Path) -> None:
    out, library = write_artifact(tmp_path / "out"), write_library(tmp_path)
    write_engine(out, library)
    with open_fake(out, library) as model:
        with pytest.raises(InputError, match="device: got 'cuda', expected cpu from this runtime here"):
            model.run([[5]], device="cuda")
        with pytest.raises(InputError, match="dtype: got 'float16', expected float32"):
            model.run([[5]], dtype="float16")
        with pytest.raises(InputError, match="input_ids: got an array on a GPU"):
            model.run(GpuArray(IDS))
        assert model.run([[5]], device="cpu", dtype="float32")["logits"].argmax() == 6


def test_generation_runs_bound_too(tmp_path: Path, gpu: Gpu) -> None:
    with load(write_artifact(tmp_path / "out", dtype="bfloat16"), provider="cuda") as model:
        assert list(model.generate([5], temperature=0, max_new_tokens=3)) == [6, 7, 8]
        assert len(gpu.pages.held) == 1
    assert not gpu.pages.held
