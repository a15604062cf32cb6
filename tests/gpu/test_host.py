"""A request on an NVIDIA GPU: where its values lie, in which type, and what verify says of it (case 27)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reformer_export
from reformer_export.errors import ReformerExportError
from reformer_export.parity.cases import Case
from reformer_export.runtimes import RuntimeOptions
from reformer_export.workflows.export import ExportRequest, export_checkpoint
from tests.cli.program import run_program
from tests.parity.sessions import sweep_artifact

pytestmark = pytest.mark.gpu

SHIPPED = Path(__file__).parents[2] / "models" / "kjv-bytes"
DTYPES = ["float32", "float16", "bfloat16"]
CASES = [Case(1, 1, masked=False), Case(200, 2, masked=True), Case(1024, 1, masked=False)]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped model in each type."""
    root = tmp_path_factory.mktemp("host")
    for dtype in DTYPES:
        export_checkpoint(SHIPPED, root / dtype, ExportRequest(dtype=dtype, verify=False))
    return {dtype: root / dtype for dtype in DTYPES}


def draw_ids(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 258, (batch, length))


@pytest.mark.parametrize("native", ["off", "auto"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_verify_passes(artifacts, dtype, native) -> None:
    options = RuntimeOptions(provider="cuda", native=native)
    result = sweep_artifact(artifacts[dtype], SHIPPED, CASES, options)
    assert result.passed, result.verdict()
    assert (result.precision, "TF32" in result.verdict()) == (dtype, False)
    assert all(case.reads_buckets for case in result.cases)


def test_verify_says_tf32_and_judges_it(artifacts) -> None:
    result = sweep_artifact(artifacts["float32"], SHIPPED, CASES, RuntimeOptions(provider="cuda", tf32=True))
    assert result.passed, result.verdict()
    assert result.precision == "tf32"
    assert "onnxruntime CUDA, TF32" in result.runtime
    assert "products round to TF32, as was asked for" in result.verdict()
    exact = sweep_artifact(artifacts["float32"], SHIPPED, CASES, RuntimeOptions(provider="cuda"))
    worst = [max(case.pinned_error for case in found.cases) for found in (exact, result)]
    assert worst[0] * 10 < worst[1], "the option changes nothing"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_command_runs_every_type(artifacts, dtype, tmp_path) -> None:
    on_gpu, out = ("--provider", "cuda"), artifacts[dtype]
    short = ("--lengths", "64,200", "--batch-sizes", "1,2")
    commands = [
        ("run", out, "In the beginning", *on_gpu, "--json"),
        ("generate", out, "--prompt", "In the", "--max-new-tokens", "5", *on_gpu),
        ("verify", out, *on_gpu, *short, "--report", tmp_path / "verify.html", "--json", tmp_path / "v.json"),
        ("verify", out, *on_gpu, *short, "--bisect", tmp_path / "node"),
        ("bench", out, *on_gpu, "--lengths", "64", "--repeat", "2", "--against", "none"),
    ]
    for command in commands:
        got = run_program(*command)
        assert got.status == 0, (command, got.stderr)
    assert json.loads((tmp_path / "v.json").read_text())["precision"] == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_the_same_wherever_they_lie(artifacts, dtype) -> None:
    """On the host and on the GPU, int32 and int64, in and out, element for element."""
    ids = draw_ids(3, 130)
    mask = (np.arange(130) < np.array([[130], [7], [64]])).astype(np.int64)
    with reformer_export.load(artifacts[dtype], provider="cuda") as model:
        expected = model.run(ids, mask)["logits"]
        assert expected.dtype == np.float32
        for integer in (torch.int64, torch.int32):
            on_gpu = [torch.from_numpy(values).to("cuda", integer) for values in (ids, mask)]
            np.testing.assert_array_equal(model.run(*on_gpu)["logits"], expected)
            stays = torch.from_dlpack(model.run(*on_gpu, device="cuda")["logits"])
            assert (stays.device.type, stays.dtype) == ("cuda", torch.float32)
            np.testing.assert_array_equal(stays.cpu().numpy(), expected)
        own = torch.from_dlpack(model.run(ids, mask, device="cuda", dtype=dtype)["logits"])
        assert own.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(own.float().cpu().numpy(), expected)
        if dtype != "bfloat16":
            half = model.run(ids, mask, dtype=dtype)["logits"]
            np.testing.assert_array_equal(half.astype(np.float32), expected)


def test_a_run_waits_for_what_the_caller_has_under_way(artifacts) -> None:
    """Ids that another stream is still computing when they are given."""
    ids = torch.from_numpy(draw_ids(1, 1024)).cuda()
    with reformer_export.load(artifacts["float16"], provider="cuda") as model:
        expected = model.run(ids)["logits"]
        for _ in range(20):
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                late = torch.zeros_like(ids)
                torch.cuda._sleep(20_000_000)  # cycles
                late.copy_(ids)
                got = model.run(late)["logits"]
            np.testing.assert_array_equal(got, expected)


def test_outputs_outlive_the_model_and_later_runs(artifacts) -> None:
    with reformer_export.load(artifacts["float16"], provider="cuda") as model:
        texts = [draw_ids(1, length) for length in (64, 65, 64, 200, 64)]
        on_host = [model.run(ids)["logits"] for ids in texts]
        on_gpu = [torch.from_dlpack(model.run(ids, device="cuda")["logits"]) for ids in texts]
    del model
    for host, gpu in zip(on_host, on_gpu, strict=True):
        np.testing.assert_array_equal(gpu.cpu().numpy(), host)
    np.testing.assert_array_equal(on_host[0], on_host[2])


def test_a_batch_too_large_for_the_gpu_is_one_line(artifacts) -> None:
    with reformer_export.load(artifacts["float32"], provider="cuda") as model:
        model.run(draw_ids(1, 8))
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(free - 2**30, dtype=torch.uint8, device="cuda")
        with pytest.raises(ReformerExportError, match="GPU's memory does not suffice"):
            model.run(draw_ids(256, 2048))
        del taken
        torch.cuda.empty_cache()
        assert model.run(draw_ids(1, 8))["logits"].shape == (1, 8, 258)
