"""What of the GPU benchmark can be tried on the CPU: its contenders compute what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from benchmarks import gpu_models
from benchmarks.bench_gpu import main
from benchmarks.gpu_cards import H100_SXM
from benchmarks.gpu_floor import floor_seconds
from benchmarks.gpu_layers import (
    DTYPES,
    PEERS,
    TOLERANCES,
    GPULayer,
    Ours,
    measure_difference,
    open_huggingface,
)
from benchmarks.gpu_machine import NO_GPU, Deadline
from benchmarks.gpu_models import FEWEST_TURNS, bench_model, time_in_turns
from benchmarks.gpu_profile import main as profile
from benchmarks.gpu_report import MODEL_RUNS
from benchmarks.gpu_sessions import BoundSession, render_kernels
from benchmarks.gpu_sessions import main as list_kernels
from benchmarks.gpu_steps import LAYERS as LAYERS_OF_STEPS
from benchmarks.gpu_steps import TOLERANCES as STEP_TOLERANCES
from benchmarks.gpu_steps import StepLayer, Steps, list_steps
from benchmarks.gpu_timing import shorten_kernel_name
from benchmarks.layers import Layer
from benchmarks.models import BenchmarkModel
from reformer_export import load
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


@pytest.mark.parametrize("kind", ["lsh", "local"])
def test_a_step_is_the_whole_operator_s_last_row(kind):
    require_native()
    for tokens in (100, 500):
        steps = Steps(StepLayer(kind, tokens, 2, "float32"), "cpu")
        outputs = steps()
        assert [output.shape for output in outputs] == [(2, 1, 128)] * LAYERS_OF_STEPS
        assert len({output.sum().item() for output in outputs}) == LAYERS_OF_STEPS, "layers of their own"
        assert steps.measure_difference() <= STEP_TOLERANCES["float32"]
        steps.lengths -= 40
        assert steps.measure_difference() > 0.01, "a wrong step is noticed"


def test_steps_are_listed():
    names = [layer.name for layer in list_steps([16384, 1024], [1], ["float16"])]
    assert names == [
        "lsh step, 16,384 tokens, batch 1, float16",
        "local step, 16,384 tokens, batch 1, float16",
        "lsh step, 1,024 tokens, batch 1, float16",
    ]


def test_full_attention_takes_every_dtype():
    for dtype in DTYPES:
        assert PEERS["full"](GPULayer(LAYERS[0], dtype, "cpu"))().shape == (1, 8, 256, 64)


def test_the_floor_knows_the_layers():
    assert set(floor_seconds(GPULayer(LAYERS[0], "float16").shape, H100_SXM)) >= {"hash", "sort", "attend"}
    assert set(floor_seconds(GPULayer(LAYERS[1], "float16").shape, H100_SXM)) == {"attend"}


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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    checkpoint = save_model(folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    export(checkpoint, folder / "out")
    return BenchmarkModel("tiny", checkpoint, folder / "out")


def test_whole_models_are_timed_and_what_cannot_be_is_told(model):
    require_native()
    first, second = bench_model(model, "float32", [16, 64], turns=2, device="cpu")
    assert (first["model"], first["tokens"], second["tokens"]) == ("tiny", 16, 64)
    for entry in (first, second):
        timed = {"eager", "onnxruntime-bodies", "onnxruntime-native", "onnxruntime-bound"}
        assert timed <= set(entry["seconds"])
        assert set(entry["seconds"]) | set(entry["not_timed"]) == set(MODEL_RUNS)
        assert all(len(seconds) == 2 for seconds in entry["seconds"].values())
        assert entry["difference"] < 1e-4


def test_a_bound_session_computes_what_run_does(model):
    require_native()
    ids = np.random.default_rng(0).integers(1, 50, (1, 64))
    session = BoundSession(model, ids, "cpu")
    session()
    with load(str(model.artifact), provider="cpu", native="on") as loaded:
        expected = loaded.run(ids)["logits"]
    np.testing.assert_array_equal(session.binding.copy_outputs_to_cpu()[0], expected)


def test_a_slow_contender_is_not_asked_again_and_one_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(gpu_models, "LONGEST_SECONDS", 0.0)

    def fail(_ids):
        raise RuntimeError("CUDA out of\nmemory")

    ids = np.ones((1, 4), np.int64)
    seconds, failed, outputs = time_in_turns({"slow": lambda _ids: {}, "full": fail}, ids, turns=9)
    assert {name: len(taken) for name, taken in seconds.items()} == {"slow": FEWEST_TURNS}
    assert failed == {"full": "CUDA out of memory"}
    assert outputs == {}


def test_time_that_is_over():
    assert Deadline(0.0, begun=0.0).passed
    assert not Deadline(3600.0).passed
    assert not Deadline(None, begun=0.0).passed


def test_a_session_s_kernels_as_text():
    kernels = [
        {"name": "attend", "calls": 12, "seconds": 3e-3},
        {"name": "copy", "calls": 0.5, "seconds": 1e-3},
    ]
    entry = {
        "model": "crime",
        "dtype": "float16",
        "tokens": 1024,
        "bound_seconds": 5e-3,
        "total_seconds": 4e-3,
        "kernels": kernels,
    }
    head, first, second = render_kernels(entry)
    assert head == "## crime float16 1024 tokens: bound session 5.00 ms, kernels 4.00 ms"
    assert first.split() == ["3000.0", "us", "75.0%", "x12", "attend"]
    assert second.split() == ["1000.0", "us", "25.0%", "x0.5", "copy"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("command", "arguments"),
    [(main, ["layers"]), (main, ["steps"]), (main, ["models"]), (list_kernels, []), (profile, ["run"])],
)
def test_without_a_gpu_nothing_is_written(command, arguments, tmp_path):
    out = [] if arguments == ["run"] else ["--out", str(tmp_path / "gpu.json")]
    result = CliRunner().invoke(command, [*arguments, *out])
    assert result.exit_code == NO_GPU
    assert "got no GPU" in result.output
    assert not list(tmp_path.iterdir())
