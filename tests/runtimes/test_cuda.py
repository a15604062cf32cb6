"""Whole models on an NVIDIA GPU with onnxruntime-gpu: on the bodies in the file, and on our kernels."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

import reformer_export
from reformer_export.export import ExportOptions
from reformer_export.parity.cases import Case
from reformer_export.runtimes import RuntimeOptions
from tests.export.test_export import export
from tests.hf_models import config_t, save_model
from tests.parity.sessions import sweep_artifact

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("native", ["off", "on"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cuda_matches_eager(tmp_path, dtype, native):
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out", ExportOptions(dtype=dtype))
    cases = [Case(n, batch, masked=n > 1) for n in (1, 7, 8, 9, 20, 32, 64) for batch in (1, 3)]
    options = RuntimeOptions(provider="cuda", native=native)
    assert sweep_artifact(tmp_path / "out", folder, cases, options).passed


@pytest.mark.parametrize("native", ["off", "on"])
def test_cuda_runs_on_the_gpu_and_repeats_itself(tmp_path, native):
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out")
    model = reformer_export.load(tmp_path / "out", provider="cuda", native=native)
    assert model.providers[0] == "CUDAExecutionProvider"
    assert (model.native is not None) == (native == "on")
    ids = np.arange(64)[None] % 50
    first, second = (model.run(ids)["last_hidden_state"] for _ in range(2))
    assert np.array_equal(first, second)
