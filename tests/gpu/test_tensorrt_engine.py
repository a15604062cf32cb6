"""Engines built and run on the GPU of this machine, with each TensorRT that is installed here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from reformer_export.artifact.engine_record import (
    ENGINE_RUNTIMES,
    EngineFlags,
    EngineProfile,
    engine_path,
    read_engine_record,
)
from reformer_export.engine import EngineOptions, build_engine
from reformer_export.errors import ArtifactError, InputError, MissingDependencyError, RuntimeUnavailableError
from reformer_export.export import ExportOptions
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.tensorrt.machine import examine_gpu_machine
from reformer_export.runtimes.tensorrt.packages import import_cuda, import_tensorrt
from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime
from tests.export.test_export import export
from tests.hf_models import config_t, save_model

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

SMALL = EngineProfile((1, 1), (1, 16), (2, 24))
LARGE = EngineProfile((1, 1), (2, 64), (4, 64))
FLAGS = {
    "plain": EngineFlags(),
    "embedded": EngineFlags(),
    "stripped": EngineFlags(refit=True, stripped=True),
}
SHAPES = [(1, 1), (1, 7), (2, 24), (1, 25), (3, 64), (4, 33), (1, 8)]
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@pytest.fixture(scope="module", params=ENGINE_RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Any:
    """A runtime that is installed and knows this GPU."""
    try:
        machine = examine_gpu_machine(request.param)
    except MissingDependencyError as error:
        pytest.skip(f"not installed here: {error}")
    assert machine.gpu is not None, machine.gpu_problem
    assert machine.library is not None, machine.library_problem
    if request.param == "tensorrt-rtx" and str(machine.gpu.compute_capability) not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX does not know compute capability {machine.gpu.compute_capability}")
    return request.param


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A causal language model, in each dtype."""
    folder = tmp_path_factory.mktemp("models")
    config = config_t(is_decoder=True)
    checkpoint = save_model(folder, config, transformers.ReformerModelWithLMHead)
    for dtype in ("float32", "float16", "bfloat16"):
        export(checkpoint, folder / dtype, ExportOptions(dtype=dtype))
    return {dtype: folder / dtype for dtype in ("float32", "float16", "bfloat16")}


@pytest.fixture(scope="module")
def out(artifacts: dict[str, Path], runtime: Any) -> Path:
    """The float32 artifact with the runtime's engines "plain", "embedded" and "stripped"."""
    for name, flags in FLAGS.items():
        options = EngineOptions(
            runtime, f"{runtime}-{name}", (SMALL, LARGE), flags=flags, embed_plugin=name == "embedded"
        )
        build_engine(artifacts["float32"], options)
    return artifacts["float32"]


def make_inputs(batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((batch, length))
    ids = rng.integers(0, 50, (batch, length))
    mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
    return ids, mask


@pytest.mark.parametrize("name", FLAGS)
def test_an_engine_is_onnx_runtime(out: Path, runtime: Any, name: str) -> None:
    """Where a token is real: what is computed at padding is nobody's business."""
    reference = load(out, provider="cpu", native="off")
    options = {"engine": f"{runtime}-{name}", "allow_engine_code": name == "embedded"}
    with load(out, runtime=runtime, **options) as model:
        for batch, length in SHAPES:
            ids, mask = make_inputs(batch, length)
            expected, got = reference.run(ids, mask)["logits"], model.run(ids, mask)["logits"]
            np.testing.assert_allclose(got[mask == 1], expected[mask == 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_half_precision(artifacts: dict[str, Path], runtime: Any, dtype: str, tolerance: float) -> None:
    """On average, because a hash that rounding flips moves single values farther."""
    build_engine(artifacts[dtype], EngineOptions(runtime, f"{runtime}-{dtype}", (LARGE,)))
    reference = load(artifacts["float32"], provider="cpu", native="off")
    with load(artifacts[dtype], runtime=runtime, engine=f"{runtime}-{dtype}") as model:
        for batch, length in SHAPES:
            ids, _ = make_inputs(batch, length)
            expected, got = reference.run(ids)["logits"], model.run(ids)["logits"]
            assert got.dtype == np.float32
            assert np.abs(got - expected).mean() <= tolerance * np.abs(expected).max()


def test_graphs_give_the_bits_of_plain_launches(out: Path, runtime: Any) -> None:
    """Each shape three times, in turn: launched, captured, replayed; other ids at each."""
    plain = load(out, runtime=runtime, engine=f"{runtime}-plain")
    with plain, load(out, runtime=runtime, engine=f"{runtime}-plain", cuda_graphs=True) as graphs:
        for seed in range(4):
            for batch, length in SHAPES:
                ids = np.random.default_rng((seed, batch, length)).integers(0, 50, (batch, length))
                expected, got = plain.run(ids)["logits"], graphs.run(ids)["logits"]
                if runtime == "tensorrt":
                    np.testing.assert_array_equal(got, expected)
                else:  # TensorRT-RTX replaces kernels by ones made for the shape while it runs
                    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
        assert graphs.notes == plain.notes, "no capture failed"
        assert isinstance(graphs, TensorRTRuntime)
        assert graphs._executor is not None
        assert len(graphs._executor._graphs) == (len(SHAPES) if runtime == "tensorrt" else 0)


def test_generate_is_onnx_runtime_s(out: Path, runtime: Any) -> None:
    options = {"max_new_tokens": 30, "temperature": 0, "eos_token_id": ()}
    expected = list(load(out, provider="cpu").generate([5, 6, 7], **options))
    with load(out, runtime=runtime, engine=f"{runtime}-plain") as model:
        assert list(model.generate([5, 6, 7], **options)) == expected


def test_close_gives_the_memory_back(out: Path, runtime: Any) -> None:
    cudart = import_cuda()

    def free_bytes() -> int:
        code, free, _total = cudart.cudaMemGetInfo()
        assert code == cudart.cudaError_t.cudaSuccess
        return int(free)

    def use() -> None:
        with load(out, runtime=runtime, engine=f"{runtime}-plain") as model:
            for batch, length in SHAPES:
                model.run(make_inputs(batch, length)[0])

    use()  # what CUDA and TensorRT keep for the process
    before = free_bytes()
    for _ in range(3):
        use()
    assert free_bytes() >= before - 2**22


def test_a_shape_in_no_profile(out: Path, runtime: Any) -> None:
    with load(out, runtime=runtime, engine=f"{runtime}-plain") as model:
        with pytest.raises(InputError, match="got shape 5x3"):
            model.run([[1, 2, 3]] * 5)
        assert model.run([[1, 2, 3]])["logits"].shape == (1, 3, 50)


def test_what_does_not_fit_is_refused_before_loading(out: Path, runtime: Any) -> None:
    name = f"{runtime}-plain"
    machine = examine_gpu_machine(runtime)
    for values in ({"runtime_version": "1.0.0"}, {"gpu": None, "gpu_problem": "GPU: got none"}):
        other = dataclasses.replace(machine, **values)
        with pytest.raises(RuntimeUnavailableError):
            TensorRTRuntime(out, RuntimeOptions(runtime, engine=name), machine=other)
    path = engine_path(out, name)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    try:
        with pytest.raises(ArtifactError, match=r"got \d+ bytes, expected \d+"):
            load(out, runtime=runtime, engine=name)
    finally:
        path.write_bytes(data)


def test_a_truncated_plan_that_passes_for_whole_is_tensorrt_s_error(out: Path, runtime: Any) -> None:
    """TensorRT itself says no, in one line, and the process lives."""
    name = f"{runtime}-plain"
    library = examine_gpu_machine(runtime).library
    assert library is not None
    data = engine_path(out, name).read_bytes()
    record = read_engine_record(out, name)
    with pytest.raises(RuntimeUnavailableError, match="refuses it"):
        OpenedEngine(import_tensorrt(runtime), record, data[: len(data) // 2], library.path)
