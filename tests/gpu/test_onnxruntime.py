"""The adapter for ONNX Runtime: one node with the library registered, on each provider it has kernels for."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from reformer_export.contract import LINEAR
from reformer_export.libraries.operators import describe_library, find_native_library
from tests.gpu.backends import DEVICES, assert_close, open_kernels, run_reference
from tests.gpu.cases import SHAPES, Shape, make_case
from tests.ops.backends import INPUT_NAMES, open_native_session, run_native_onnxruntime, unwrap
from tests.required import skip_unless_required

OPERATORS = [name for name in INPUT_NAMES if name != LINEAR.name]
"""Those with CUDA kernels."""

BUILT_WITH_CUDA = Path(__file__).parents[2] / "build/cuda/adapters/onnxruntime/libreformer_onnxruntime.so"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def require_provider(device):
    open_kernels(device)
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        pytest.fail(f"ONNX Runtime has no {provider}: install onnxruntime-gpu in place of onnxruntime")
    if device == "cuda":
        ort.preload_dlls()
    return provider


def make_inputs(operator, shape, dtype, seed=0):
    tensors, attributes = make_case(operator, shape, dtype, seed)
    inputs = {name: tensor.numpy() for name, tensor in zip(INPUT_NAMES[operator], tensors, strict=True)}
    return inputs, attributes, run_reference(operator, tensors, attributes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES[1:9], ids=lambda shape: shape.name)
def test_a_node_is_the_reference(device, operator, shape, dtype):
    provider = require_provider(device)
    inputs, attributes, expected = make_inputs(operator, shape, dtype)
    assert_close(tensors_of(run_native_onnxruntime(operator, inputs, attributes, provider)), expected)


def tensors_of(results):
    """What a session gave, an array or a list of them, as torch has it."""
    return torch.from_numpy(results) if isinstance(results, np.ndarray) else [*map(torch.from_numpy, results)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_node_runs_on_its_provider(device, operator, tmp_path):
    """Not on the CPU, behind copies."""
    provider = require_provider(device)
    inputs, attributes, _ = make_inputs(operator, Shape(130), torch.float32)
    session = open_native_session(operator, inputs, attributes, provider, profile=str(tmp_path / "profile"))
    session.run(None, inputs)
    assert nodes_by_provider(session.end_profiling()) == {(operator, provider)}


def nodes_by_provider(path):
    """(operator, provider) of every node that a profile timed, without copies of the session's own."""
    events = json.loads(Path(path).read_text())
    timed = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event["args"]]
    return {(args["op_name"], args["provider"]) for args in timed if not args["op_name"].startswith("Memcpy")}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_at_once_give_equal_bits(device, operator):
    """Scratch memory that goes back to the arena while a stream still uses it must not reach another run."""
    provider = require_provider(device)
    inputs, attributes, _ = make_inputs(operator, Shape(515, rounds=4), torch.float32)
    session = open_native_session(operator, inputs, attributes, provider)
    expected = session.run(None, inputs)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: session.run(None, inputs), range(24)))
    for results in runs:
        assert all(np.array_equal(got, wanted) for got, wanted in zip(results, expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_repeated_runs_keep_their_memory(device):
    """What a run borrows from the session it gives back."""
    provider = require_provider(device)
    code = f"""
import resource
import torch
from tests.gpu.cases import Shape
from tests.gpu.test_onnxruntime import make_inputs, open_native_session
inputs, attributes, _ = make_inputs("LSHAttention", Shape(70, heads=1, head_size=8, chunk=8), torch.float32)
session = open_native_session("LSHAttention", inputs, attributes, {provider!r})
peaks = []
for _ in range(3):
    for _ in range(3000):
        session.run(None, inputs)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[2] - peaks[1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= 128  # KiB gained in 3,000 runs


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_kernel_refuses_ends_the_run_with_its_words(device):
    provider = require_provider(device)
    inputs, attributes, _ = make_inputs("LSHAttention", Shape(64), torch.float32)
    inputs["value"] = inputs["value"][:, :-1]
    with pytest.raises(Exception, match="value"):
        run_native_onnxruntime("LSHAttention", inputs, attributes, provider)


def test_a_library_with_cuda_serves_sessions_without_it():
    """Operators of a provider that the session lacks are not in its way, nor is a CUDA the machine lacks."""
    library = find_native_library("auto")
    if library is None or library.cuda_architectures is None:
        if not BUILT_WITH_CUDA.is_file():
            skip_unless_required(f"no {BUILT_WITH_CUDA.name} built with CUDA: make gpu-libraries builds it")
        library = describe_library(BUILT_WITH_CUDA)
    assert library.cuda_architectures
    for operator in OPERATORS:
        inputs, attributes, expected = make_inputs(operator, Shape(130), torch.float32)
        session = open_native_session(operator, inputs, attributes, PROVIDERS["cpu"], library)
        assert_close(tensors_of(unwrap(session.run(None, inputs))), expected)
