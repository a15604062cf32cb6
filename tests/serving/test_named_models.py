"""Models whose inputs are not ids, served: vectors and modules of a user's own, by Triton's own client."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.runtimes.artifacts import (
    custom_inputs,
    custom_outputs,
    write_custom_artifact,
    write_vector_artifact,
)
from tests.serving.servers import RunningServer, running_server, wait_until

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

NUMPY = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "BF16": ml_dtypes.bfloat16}
BATCHES = "inputs of equal shapes but for their rows"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("named")
    artifacts = [
        write_vector_artifact(folder / "vectors"),
        write_custom_artifact(folder / "custom", "bfloat16"),
        write_custom_artifact(folder / "rowless", has_rows=False),
    ]
    with running_server(artifacts, "--max-response", "20000", "--max-delay", "5") as server:
        yield server


@pytest.fixture(scope="module")
def client(named: RunningServer) -> Iterator[Any]:
    with triton.InferenceServerClient(named.url) as opened:
        yield opened


def ask(client: Any, model: str, arrays: dict[str, Any], types: dict[str, str], binary: bool = True) -> Any:
    inputs = []
    for name, values in arrays.items():
        inputs.append(triton.InferInput(name, list(values.shape), types[name]))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = None
    if not binary:
        names = [each["name"] for each in client.get_model_metadata(model)["outputs"]]
        outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in names]
    return client.infer(model, inputs, outputs=outputs)


def test_the_metadata_are_the_manifests(client: Any) -> None:
    found = client.get_model_metadata("custom")
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["inputs"]] == [
        ("series", "BF16", [-1, -1, 3]),
        ("context", "FP32", [-1, 2]),
        ("station", "INT32", [-1]),
    ]
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["outputs"]] == [
        ("forecast", "FP32", [-1, -1, 3]),
        ("known", "BOOL", [-1]),
    ]
    assert found["parameters"]["batches"] == BATCHES
    assert client.get_model_metadata("rowless")["parameters"]["batches"].startswith("none: not every input")
    vectors = client.get_model_metadata("vectors")
    assert [each["datatype"] for each in vectors["inputs"]] == ["FP32", "INT64"]
    assert vectors["parameters"]["batches"].startswith("sequences that the model itself pads")


@pytest.mark.parametrize("model", ["custom", "rowless"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("series", ["FP32", "FP16", "BF16", "FP64"])
def test_a_users_own_module(client: Any, model: str, binary: bool, series: str) -> None:
    if not binary and series in ("FP16", "BF16"):
        pytest.skip("tritonclient writes 16-bit floats in binary only")
    arrays = custom_inputs(2, 7)
    expected = custom_outputs(arrays, has_rows=model == "custom")
    arrays["series"] = arrays["series"].astype(NUMPY[series])
    types = {"series": series, "context": "FP32", "station": "INT32"}
    answer = ask(client, model, arrays, types, binary)
    for name, values in expected.items():
        assert answer.get_output(name)["shape"] == list(values.shape)
        np.testing.assert_array_equal(answer.as_numpy(name).reshape(values.shape), values)


def test_vectors_with_and_without_a_mask(client: Any) -> None:
    vectors = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 4) / 8
    mask = np.array([[1] * 8, [1] * 5 + [0] * 3])
    types = {"inputs_embeds": "FP32", "attention_mask": "INT64"}
    for binary in (True, False):
        alone = ask(client, "vectors", {"inputs_embeds": vectors}, types, binary)
        np.testing.assert_array_equal(alone.as_numpy("last_hidden_state"), vectors + 1)
        masked = ask(client, "vectors", {"inputs_embeds": vectors, "attention_mask": mask}, types, binary)
        expected = (vectors + mask[..., None]) * mask[..., None]
        np.testing.assert_array_equal(masked.as_numpy("last_hidden_state"), expected)


def list_batches(server: RunningServer) -> list[int]:
    """The rows of the batch that each request was in."""
    return [
        line["batch"] for line in server.log("request") if line.get("model") == "custom" and "batch" in line
    ]


def test_equal_shapes_run_together_and_each_gets_its_own(named: RunningServer) -> None:
    """Requests that come while the worker does nothing, and has as many runs as it takes."""
    runs = [custom_inputs(1, time) for time in (10, 11, 12)]  # two at once, and the next in hand
    asked = [custom_inputs(1 + seed % 3, 4 + seed % 2, seed) for seed in range(8)]
    before = len(list_batches(named))
    (pid,) = (line["pid"] for line in named.log("model_ready") if line["model"] == "custom")
    with ThreadPoolExecutor(len(runs) + len(asked)) as pool:

        def send(many: list[dict[str, Any]]) -> list[Future[tuple[int, Any]]]:
            bodies = [{"inputs": [make_tensor(*each) for each in arrays.items()]} for arrays in many]
            return [pool.submit(named.infer, "custom", body) for body in bodies]

        os.kill(pid, signal.SIGSTOP)
        try:
            answers = send(runs)
            wait_until(lambda: named.metric("reformer_running_batches") == len(runs))
            answers += send(asked)
            wait_until(lambda: named.metric("reformer_waiting_requests") == len(asked))
        finally:
            os.kill(pid, signal.SIGCONT)
    for arrays, answer in zip(runs + asked, answers, strict=True):
        outputs = {each["name"]: each for each in answer.result()[1]["outputs"]}
        for name, values in custom_outputs(arrays).items():
            assert outputs[name]["shape"] == list(values.shape)
            np.testing.assert_array_equal(outputs[name]["data"], values.ravel())
    wait_until(lambda: len(list_batches(named)) == before + len(answers))  # written after an answer has gone
    batches = sorted(list_batches(named)[before:])
    together = [sum(len(arrays["station"]) for arrays in asked[first::2]) for first in (0, 1)]
    assert batches == [1, 1, 1, *together[:1] * 4, *together[1:] * 4]


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "a missing input": ({"context": None}, 400, "context: got none, expected it"),
    "another number of rows": (
        {"station": [1, 2, 3]},
        400,
        "station: got shape [3], expected [batch] with batch = 2, as in series",
    ),
    "a width": ({"context": [[1.0], [2.0]]}, 400, "context: got shape [2, 1], expected [batch, 2]"),
    "an axis": ({"context": [1.0, 2.0]}, 400, "context, shape: got [2], expected [batch, 2]"),
    "a length": ({"series": np.ones((2, 49, 3)).tolist()}, 400, "time from 2 to 48"),
    "floats for integers": ({"station": [1.5, 2.5]}, 400, "station, datatype: got 'FP32', expected INT64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_it_runs(named: RunningServer, name: str) -> None:
    changes, expected, words = REFUSED[name]
    arrays = {name: values.tolist() for name, values in custom_inputs(2, 5).items()} | changes
    tensors = [make_tensor(key, np.array(values)) for key, values in arrays.items() if values is not None]
    status, answer = named.infer("custom", {"inputs": tensors})
    assert status == expected
    assert words in answer["error"]


def test_an_answer_that_would_be_too_large(named: RunningServer) -> None:
    tensors = [make_tensor(name, values) for name, values in custom_inputs(40, 48).items()]
    status, answer = named.infer("custom", {"inputs": tensors})
    assert status == 413
    assert "bytes of outputs" in answer["error"]


def test_texts_are_for_models_that_write(named: RunningServer) -> None:
    for model in ("vectors", "custom"):
        body = json.dumps({"model": model, "prompt": "a"}).encode()
        status, _, content = named.request("POST", "/v1/completions", body)
        assert status == 400
        assert "expected one for text-generation" in json.loads(content)["error"]["message"]
    status, _, content = named.request("GET", "/card")
    assert status == 200
    for card in json.loads(content)["models"]:
        assert named.infer(card["name"], {"inputs": card["example"]})[0] == 200
        if card["name"] == "custom":
            assert ["Takes", "series bfloat16 [batch, time, 3]", ""] in card["card"]
            assert ["Gives", "known bool [batch]", ""] in card["card"]


def make_tensor(name: str, values: Any) -> dict[str, Any]:
    datatype = "FP32" if values.dtype.kind == "f" else "INT32"
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}
