"""What of the GPU benchmark can be tried on the CPU: its contenders compute what they should."""

from __future__ import annotations

import pytest
import torch
import transformers
from click.testing import CliRunner

from benchmarks.bench_gpu import NO_GPU, find_card, main
from benchmarks.gpu_floor import A100_SXM_40GB, A100_SXM_80GB, H100_SXM, floor_seconds
from benchmarks.gpu_layers import (
    DTYPES,
    PEERS,
    TOLERANCES,
    GPULayer,
    Ours,
    measure_difference,
    open_huggingface,
)
from benchmarks.gpu_models import bench_model
from benchmarks.gpu_report import MODEL_RUNS
from benchmarks.gpu_timing import shorten_kernel_name
from benchmarks.layers import Layer
from benchmarks.models import BenchmarkModel
from tests.export.test_export import export
from tests.hf_models import config_t, save_model
from tests.ops.backends import require_native

LAYERS = [Layer("lsh", 256, 2), Layer("local", 256, 0)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.kind)
def test_ours_computes_what_the_peer_does(layer, dtype):
    require_native()
    gpu_layer = GPULayer(layer, dtype, "cpu")
    ours = Ours(gpu_layer)
    assert measure_difference(gpu_layer, ours, open_huggingface(gpu_layer)) <= TOLERANCES[dtype]
    shapes = {name: run().dtype for name, run in ours.parts().items()}
    assert shapes["ours"] == DTYPES[dtype]
    assert layer.kind == "local" or shapes["ours: hash"] == torch.int32


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.kind)
def test_a_wrong_layer_is_noticed(layer):
    require_native()
    gpu_layer = GPULayer(layer, "float32", "cpu")
    ours = Ours(gpu_layer)
    ours.operands[-1] = ours.operands[-1].flip(1)
    assert measure_difference(gpu_layer, ours, open_huggingface(gpu_layer)) > 0.1


def test_full_attention_takes_every_dtype():
    for dtype in DTYPES:
        assert PEERS["full"](GPULayer(LAYERS[0], dtype, "cpu"))().shape == (1, 8, 256, 64)


def test_the_floor_knows_the_layers():
    assert set(floor_seconds(GPULayer(LAYERS[0], "float16").shape, H100_SXM)) >= {"hash", "sort", "attend"}
    assert set(floor_seconds(GPULayer(LAYERS[1], "float16").shape, H100_SXM)) == {"attend"}


@pytest.mark.parametrize(
    ("name", "memory", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 85e9, H100_SXM),
        ("NVIDIA H100 PCIe", 85e9, None),
        ("NVIDIA A100-SXM4-40GB", 42e9, A100_SXM_40GB),
        ("NVIDIA A100-SXM4-80GB", 85e9, A100_SXM_80GB),
        ("NVIDIA A100-PCIE-40GB", 42e9, None),
        ("NVIDIA L4", 24e9, None),
    ],
)
def test_cards_with_a_floor(name, memory, card):
    assert find_card(name, int(memory)) == card


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void a::attend_kernel<a::half, 64>(a::Arguments<a::half>)", "attend_kernel"),
        ("void (anonymous namespace)::add<float>(float*)", "add"),
        ("sort(int)", "sort"),
    ],
)
def test_kernel_names(name, short):
    assert shorten_kernel_name(name) == short


def test_whole_models_are_timed_and_what_cannot_be_is_told(tmp_path):
    require_native()
    folder = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    export(folder, tmp_path / "out")
    model = BenchmarkModel("tiny", folder, tmp_path / "out")
    first, second = bench_model(model, "float32", [16, 64], turns=2, device="cpu")
    assert (first["model"], first["tokens"], second["tokens"]) == ("tiny", 16, 64)
    for entry in (first, second):
        timed = {"eager", "onnxruntime-bodies", "onnxruntime-native"}
        assert timed <= set(entry["seconds"])
        assert set(entry["seconds"]) | set(entry["not_timed"]) == set(MODEL_RUNS)
        assert all(len(seconds) == 2 for seconds in entry["seconds"].values())
        assert entry["difference"] < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(tmp_path):
    result = CliRunner().invoke(main, ["--page", str(tmp_path / "page.md"), "--name", "none"])
    assert result.exit_code == NO_GPU
    assert "got no GPU" in result.output
    assert not list(tmp_path.iterdir())
