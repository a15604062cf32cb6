"""--runtime and what comes with it, in the commands that run an artifact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from reformer_export.cli import runtime_options
from reformer_export.cli.generate import command as generate_command
from reformer_export.cli.run import command as run_command
from reformer_export.runtimes import RuntimeOptions, load
from tests.cli.program import run_program
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library
from tests.runtimes.tensorrt.fake_cuda import FakeCuda


@pytest.fixture
def gpu(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A fake GPU that the commands find, and an engine for it."""
    library = write_library(tmp_path)
    write_engine(out, library)
    cuda = FakeCuda()

    def load_on_fake(path: Any, options: RuntimeOptions) -> Any:
        if not options.is_engine:
            return load(path)
        return open_fake(path, library, cuda=cuda, engine=options.engine, cuda_graphs=options.cuda_graphs)

    monkeypatch.setattr(runtime_options, "load", load_on_fake)
    return cuda


@pytest.mark.parametrize("command", [run_command, generate_command])
def test_the_options_become_one_choice(command: click.Command) -> None:
    names = {name for parameter in command.params for name in parameter.opts}
    assert names >= {
        "--runtime",
        "--engine",
        "--cuda-graphs",
        "--provider",
        "--native",
        "--threads",
        "--tf32",
    }


def test_a_choice_has_the_defaults_of_load(out: Path) -> None:
    with load(out) as model:
        assert model.description.startswith("ONNX Runtime, CPU, ")
        assert model.run([[5]])["logits"].argmax() == 6


def test_run_on_a_gpu_is_run_on_onnx_runtime(out: Path, gpu: FakeCuda) -> None:
    expected = run_program("run", out, "--ids", "5,6,7", "--json", "--provider", "cpu")
    got = run_program("run", out, "--ids", "5,6,7", "--json", "--runtime", "tensorrt")
    assert (expected.status, got.status) == (0, 0)
    assert json.loads(got.stdout)["sequences"] == json.loads(expected.stdout)["sequences"]
    (provider,) = json.loads(got.stdout)["providers"]
    assert provider.startswith(
        "TensorRT 1.7.1.116, Fake 4090 (compute capability 8.9, 24.0 GiB), engine fake"
    )
    assert got.stderr == f"Runs on {provider}.\n"


def test_the_runtime_is_closed_when_the_command_ends(out: Path, gpu: FakeCuda) -> None:
    assert run_program("run", out, "--ids", "5", "--runtime", "tensorrt", "--engine", "fake").status == 0
    assert "synchronize" in gpu.log
    assert (gpu.memory, gpu.streams) == ({}, {})
    assert run_program("run", out, "--ids", "5," * 64 + "5", "--runtime", "tensorrt").status == 2
    assert (gpu.memory, gpu.streams) == ({}, {}), "after an error too"


def test_generate_on_a_gpu(out: Path, gpu: FakeCuda) -> None:
    arguments = ("--prompt-ids", "5,6", "--temperature", "0", "--max-new-tokens", "5")
    got = run_program("generate", out, *arguments, "--runtime", "tensorrt", "--cuda-graphs")
    assert (got.status, got.stdout) == (0, "7,8,9,10,11\n")
    assert got.stderr.startswith("Runs on TensorRT 1.7.1.116, ")
    assert (gpu.memory, gpu.streams) == ({}, {})


def test_what_running_teaches_is_shown_at_the_end(out: Path, gpu: FakeCuda) -> None:
    gpu.failures["end_capture"] = "cudaErrorStreamCaptureInvalidated"
    ids = ("--ids", "5,6", "--ids", "6,7", "--ids", "7,8")
    got = run_program("run", out, *ids, "--json", "--runtime", "tensorrt", "--cuda-graphs")
    assert got.status == 0
    (note,) = got.messages
    assert note.startswith("Note: CUDA graphs are off")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "cuda"), "'cuda' is not one of 'onnxruntime', 'tensorrt', 'tensorrt-rtx'"),
        (("--engine", "x"), "engine: got one that onnxruntime does not take"),
        (("--cuda-graphs",), "--cuda-graphs: got one that onnxruntime does not take"),
        (("--runtime", "tensorrt", "--threads", "2"), "threads: got one that tensorrt does not take"),
        (("--runtime", "tensorrt-rtx", "--provider", "cpu"), "provider: got one that tensorrt-rtx does not"),
        (("--runtime", "tensorrt", "--native", "off"), "native: got one that tensorrt does not take"),
    ],
)
def test_options_that_do_not_go_together(out: Path, arguments: tuple[str, ...], message: str) -> None:
    got = run_program("run", out, "--ids", "5", *arguments)
    assert (got.status, got.stdout) == (2, "")
    assert message in got.stderr
    assert "Traceback" not in got.stderr


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")],
)
def test_without_tensorrt_the_line_says_what_to_install(
    out: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    got = run_program("generate", out, "--prompt-ids", "5", "--runtime", runtime)
    assert (got.status, got.stdout) == (2, "")
    assert f"pip install 'reformer-export[{extra}]'" in got.error
