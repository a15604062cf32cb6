"""Files of Reformer and LSHSelfAttention in ONNX Runtime and as engines, against the unpatched package; the
worked example of docs/reformer-pytorch.md, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reformer_export
from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.engine import EngineOptions, build_engine
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.parity.cases import default_cases
from reformer_export.parity.session import open_session
from reformer_export.parity.sweep import sweep
from reformer_export.reference.lucidrains import EagerLucidrains
from reformer_export.spec import DType
from tests.engine.real import require_tensorrt_rtx
from tests.lucidrains import SMALL_ATTENTION, SMALL_REFORMER, draw_vectors, require_package, save_model
from tests.pages import ROOT, read_python

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("translated_as_captured")]

ATOL = 1e-4

PADDED_ATTENTION = SMALL_ATTENTION | {"n_local_attn_heads": 1, "num_mem_kv": 8, "one_value_head": True}
CONFIGURATIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "Reformer": (SMALL_REFORMER | {"weight_tie": True, "ff_glu": True, "use_scale_norm": True}, None),
    "attention, padded": (PADDED_ATTENTION, "Autopadder"),
    "full attention": (SMALL_ATTENTION | {"use_full_attn": True, "causal": True}, None),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_file_equals_eager(tmp_path: Path, name: str) -> None:
    file, config = save_model(tmp_path, *CONFIGURATIONS[name])
    out = tmp_path / "out"
    out.mkdir()
    manifest = write_artifact(load_lucidrains(str(file), config, LoadOptions()), out, ExportOptions())
    eager, spec = EagerLucidrains(file, manifest), manifest.spec
    natives: list[NativeMode] = ["off", *(["auto"] if find_native_library("auto") else [])]
    takes = [length for length in range(1, spec.max_length + 1) if spec.takes_length(length)]
    rng = np.random.default_rng(1)
    for native in natives:
        with reformer_export.load(out, provider="cpu", native=native) as runtime:
            for length in sorted({takes[0], *takes[:: max(len(takes) // 4, 1)], takes[-1]}):
                vectors = draw_vectors(rng, 3, length, 32)
                mask = np.arange(length) < np.array([[length], [max(length // 3, 1)], [max(length - 1, 1)]])
                expected = eager.run(vectors, mask.astype(np.int64)).outputs["last_hidden_state"]
                got = runtime.run(vectors, mask.astype(np.int64))["last_hidden_state"]
                assert got.shape == expected.shape
                assert np.abs(got - expected)[mask].max() < ATOL, f"native {native}, length {length}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_explained_by_rounding(tmp_path: Path, dtype: DType) -> None:
    file, config = save_model(tmp_path, SMALL_ATTENTION, "Autopadder")
    out = tmp_path / "out"
    reformer_export.export_checkpoint(file, out, config=config, dtype=dtype, verify=False)
    with open_session(out, file) as session:
        cases = default_cases(session.spec)[-6:]
        vectors, _ = session.draw(cases[0])
        result = sweep(session, cases)
    rounded = torch.from_numpy(vectors).to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(vectors, rounded)
    assert result.passed


@pytest.mark.tensorrt
def test_an_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    require_tensorrt_rtx()
    file, config = save_model(tmp_path, *CONFIGURATIONS["attention, padded"])
    out = tmp_path / "out"
    reformer_export.export_checkpoint(file, out, config=config, dtype="float16", verify=False)
    record = build_engine(out, EngineOptions("tensorrt-rtx", compute_capabilities=("8.9",))).record
    assert record.plugin_layers == {"LSHAttention": 1, "LSHBuckets": 1, "LocalAttention": 1}
    assert record.profiles[0].maximum == (1, 64)


def test_the_time_series_layer_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_package()
    monkeypatch.chdir(tmp_path)
    (code,) = read_python(ROOT / "docs" / "reformer-pytorch.md")
    page: dict[str, Any] = {}
    exec(compile(code, "reformer-pytorch.md", "exec"), page)
    eager = EagerLucidrains(tmp_path / "layer.pt", read_manifest(tmp_path / "LAYER"))
    rng = np.random.default_rng(0)
    with reformer_export.load("LAYER", provider="cpu") as model:
        for batch, length in ((1, 1), (3, 7), (2, 8), (5, 36), (1, 96)):
            series = rng.standard_normal((batch, length, 64), np.float32)
            filled = np.concatenate([series, np.zeros((batch, -length % 8, 64), np.float32)], axis=1)
            whole = eager.run(filled, np.ones(filled.shape[:2], np.int64)).outputs["last_hidden_state"]
            np.testing.assert_allclose(page["attend"](model, series), whole[:, :length], rtol=0, atol=ATOL)
