"""The onnxruntime repository in a real tritonserver: its answers are those of `model.run`.

No package registry has Triton's onnxruntime backend, so these tests run where somebody has built one: from
the sources of triton-inference-server's onnxruntime_backend, backend, core and common of the server's
release (r24.10 for 2.51), with TRITON_ENABLE_GPU=OFF, TRITON_ONNXRUNTIME_INCLUDE_PATHS naming the headers
that a build of the native library leaves in build/host/_headers and TRITON_ONNXRUNTIME_LIB_PATHS a folder
with the libonnxruntime of the wheel; put with that into build/triton/backends/onnxruntime.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import np_to_triton_dtype

from reformer_export import load
from reformer_export.serving.triton.repository import write_triton_repository
from tests.runtimes.artifacts import write_custom_artifact, write_vector_artifact
from tests.serving.triton.server import FOLDER, Server, run_server
from tests.serving.triton.test_server import draw_rows, make_inputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "backends" / "onnxruntime" / "libtriton_onnxruntime.so").is_file(),
        reason="no onnxruntime backend in build/triton",
    ),
]
LENGTHS = (1, 2, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 128, 500, 511, 512, *[60] * 12)


@pytest.fixture(scope="module")
def backend(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the artifact with the operator library and without, a model of vectors, and a custom module."""
    folder = tmp_path_factory.mktemp("triton-onnxruntime")
    write_vector_artifact(folder / "OUT-vectors", "float16")
    write_custom_artifact(folder / "OUT-custom", "float16")
    for name, out, native in (
        ("native", artifact, "on"),
        ("body", artifact, "off"),
        ("vectors", folder / "OUT-vectors", "auto"),
        ("custom", folder / "OUT-custom", "auto"),
    ):
        options = {"name": name, "native": native, "threads": 1, "queue_delay": 20_000}
        write_triton_repository(out, folder / name, backend="onnxruntime", **options)
    repositories = [folder / name for name in ("native", "body", "vectors", "custom")]
    with run_server(repositories, folder / "server.log") as running:
        yield running


@pytest.mark.parametrize("name", ["native", "body"])
def test_answers_are_the_models_own(backend: Server, artifact: Path, name: str) -> None:
    rng = random.Random(1)
    asked = []
    for length in LENGTHS:
        ids = draw_rows(rng, rng.choice((1, 1, 3)), length)
        ends = np.array([[rng.randint(1, length) if rng.random() < 0.3 else length] for _ in ids])
        asked.append((ids, (np.arange(length) < ends).astype(np.int64)))
    with (
        tritonclient.grpc.InferenceServerClient(backend.grpc) as client,
        load(artifact, provider="cpu", threads=1, native="on" if name == "native" else "off") as model,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = pool.map(lambda each: client.infer(name, make_inputs(tritonclient.grpc, *each)), asked)
        for (ids, mask), answer in zip(asked, answers, strict=True):
            assert np.array_equal(answer.as_numpy("logits"), model.run(ids, mask)["logits"]), ids.shape


@pytest.mark.parametrize("name", ["vectors", "custom"])
def test_models_of_other_inputs(backend: Server, tmp_path: Path, name: str) -> None:
    """Halves go in and come out as they are, and rows alone as a column."""
    write = {"vectors": write_vector_artifact, "custom": write_custom_artifact}[name]
    rng = np.random.default_rng(2)
    with (
        tritonclient.grpc.InferenceServerClient(backend.grpc) as client,
        load(write(tmp_path / name, "float16"), provider="cpu") as model,
    ):
        given, inputs = {}, []
        for each in model.manifest.inputs:
            shape = each.sizes({"batch": 3, "sequence": 1, "time": 2})
            values = rng.standard_normal(shape) if "float" in each.dtype else np.ones(shape)
            given[each.name] = values.astype(each.dtype)
            datatype = np_to_triton_dtype(given[each.name].dtype)
            sent = given[each.name].reshape(-1, 1) if len(shape) == 1 else given[each.name]
            inputs.append(tritonclient.grpc.InferInput(each.name, list(sent.shape), datatype))
            inputs[-1].set_data_from_numpy(sent)
        answer = client.infer(name, inputs)
        for output, values in model.run(given).items():
            found = answer.as_numpy(output).reshape(values.shape)
            assert np.array_equal(found.astype(np.float32), values.astype(np.float32)), output
