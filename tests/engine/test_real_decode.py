"""Engines of decode.onnx built by the real TensorRT-RTX with the real plugins, without a GPU too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import ReformerModelWithLMHead

from reformer_export.artifact.decoding import DECODE_NAME, cache_tensors
from reformer_export.artifact.engine_record import EngineProfile, read_engine_record
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import EXTERNAL_DATA_NAME, read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.engine import EngineOptions, build_engine
from reformer_export.engine.process import _environment
from reformer_export.engine.request import BuildRequest
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.tensorrt import TensorRTLibrary
from reformer_export.spec import DTYPES, DType
from tests.engine.real import require_tensorrt_rtx
from tests.hf_models import config_t, save_model

pytestmark = pytest.mark.tensorrt

OPTIONS = EngineOptions("tensorrt-rtx", decode=True, compute_capabilities=("8.0", "8.9", "12.0"))

# Builds as the building process does, and prints TensorRT's whole log, which lists the layers.
LAYERS_SCRIPT = """
import os, sys
import tensorrt_rtx as trt
from reformer_export.engine.config import build_plan
from reformer_export.engine.network import parse_network
from reformer_export.engine.request import request_from_json

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, message):
        print(message, flush=True)
    def cause(self):
        return "see above"

class Monitor(trt.IProgressMonitor):
    def __init__(self):
        trt.IProgressMonitor.__init__(self)
    def phase_start(self, name, parent, steps):
        pass
    def step_complete(self, name, step):
        return True
    def phase_finish(self, name):
        pass

request = request_from_json(sys.stdin.read())
log = Log()
trt.get_plugin_registry().load_library(request.plugin)
build_plan(trt, log, Monitor(), request, parse_network(trt, log, request), ("8.9",))
os._exit(0)
"""


@pytest.fixture(scope="module")
def library() -> TensorRTLibrary:
    return require_tensorrt_rtx()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, library: TensorRTLibrary) -> Path:
    """Random weights, a local and an LSH layer, chunks of 64, up to 1,024 tokens."""
    config = config_t(
        is_decoder=True,
        axial_pos_shape=[32, 32],
        max_position_embeddings=1024,
        num_buckets=[4, 8],
        local_attn_chunk_length=64,
        lsh_attn_chunk_length=64,
        local_num_chunks_after=0,
        lsh_num_chunks_after=0,
    )
    return save_model(tmp_path_factory.mktemp("decode"), config, ReformerModelWithLMHead)


def export(checkpoint: Path, out: Path, dtype: DType = "float32", **load: Any) -> Path:
    out.mkdir()
    options = ExportOptions(dtype, decode=True, runtime_num_hashes=bool(load))
    write_artifact(load_huggingface(str(checkpoint), LoadOptions(**load)), out, options)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_engine_of_decode_onnx(checkpoint: Path, tmp_path: Path, dtype: DType) -> None:
    """Its weights are in model.onnx.data, which TensorRT finds beside it."""
    out = export(checkpoint, tmp_path / "out", dtype)
    assert (out / EXTERNAL_DATA_NAME).is_file()
    build = build_engine(out, OPTIONS)
    record = read_engine_record(out, "tensorrt-rtx-decode")
    assert record == build.record
    assert record.plugin_layers == {"LSHAttentionStep": 1, "LSHBuckets": 1, "LocalAttentionStep": 1}
    assert record.model_sha256 == sha256_of_file(out / DECODE_NAME)
    assert (record.dtype, record.capacity) == (dtype, 1024)
    prompts, steps = EngineProfile((1, 1), (1, 256), (1, 1024)), EngineProfile((1, 1), (1, 1), (16, 1))
    assert record.profiles == (prompts, steps)


def test_hashes_that_are_built_in(checkpoint: Path, tmp_path: Path) -> None:
    out = export(checkpoint, tmp_path / "out", num_hashes=4)
    options = EngineOptions("tensorrt-rtx", decode=True, compute_capabilities=("8.9",), num_hashes=2)
    assert build_engine(out, options).record.num_hashes == 2


def test_the_caches_reach_the_plugins_as_they_are(
    checkpoint: Path, library: TensorRTLibrary, tmp_path: Path
) -> None:
    """TensorRT puts no copy between a cache and the step that continues it: one buffer that is bound as both
    comes to the plugin as one."""
    out = export(checkpoint, tmp_path / "out", "float16")
    request = BuildRequest(
        EngineOptions(
            "tensorrt-rtx", profiles=(EngineProfile((1, 1), (1, 1), (4, 256)),), decode=True, capacity=1024
        ),
        model=str(out / DECODE_NAME),
        plugin=str(library.path),
        engine="",
        operators={"LSHAttentionStep": 1, "LSHBuckets": 1, "LocalAttentionStep": 1},
        layers="",
    )
    result = subprocess.run(
        [sys.executable, "-c", LAYERS_SCRIPT],
        input=request.to_json(),
        env=_environment("tensorrt-rtx", tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    layers = [line for line in result.stdout.splitlines() if line.startswith("Name: ")]
    manifest = read_manifest(out)
    for cache in cache_tensors(manifest.spec, manifest.dtype):
        (step,) = [line for line in layers if f"Name: {cache.input}," in line]
        assert "LayerType: custom_layer" in step
        assert f"Name: {cache.output}," in step.partition("Outputs: ")[2]
        assert sum(f"Name: {cache.output}," in line for line in layers) == 1
