"""The open inference protocol v2 over HTTP, by Triton's own client and without one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.runtimes import load
from tests.runtimes.artifacts import make_spec, write_artifact
from tests.serving.servers import (
    RunningServer,
    expected_logits,
    logits_from_answer,
    make_body,
    running_server,
)

RNG = np.random.default_rng(3)


@pytest.fixture
def client(server: RunningServer) -> Any:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = triton.InferenceServerClient(server.url)
    yield client
    client.close()


def make_input(client_module: Any, name: str, values: Any, datatype: str, binary: bool) -> Any:
    made = client_module.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 9), (1, 64)])
def test_tritonclient(client: Any, binary_in: bool, binary_out: bool | None, rows: int, length: int) -> None:
    import tritonclient.http as triton

    ids = RNG.integers(0, 258, (rows, length))
    mask = np.ones_like(ids)
    mask[:, length // 2 + 1 :] = 0
    inputs = [
        make_input(triton, "input_ids", ids, "INT64", binary_in),
        make_input(triton, "attention_mask", mask.astype(np.int32), "INT32", binary_in),
    ]
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    answer = client.infer("tiny", inputs, outputs=outputs, request_id="a b")
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected_logits(ids))
    assert answer.get_response()["id"] == "a b"
    assert answer.get_output("logits")["datatype"] == "FP32"


def test_what_tritonclient_asks_besides(client: Any) -> None:
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    found = client.get_model_metadata("tiny", "1")
    assert [each["name"] for each in found["inputs"]] == ["input_ids", "attention_mask"]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, 258]}]
    ids = make_input(triton, "input_ids", np.array([[300]]), "INT64", True)
    with pytest.raises(InferenceServerException, match="id 300"):
        client.infer("tiny", [ids])


def test_rows_may_be_nested(server: RunningServer) -> None:
    body = make_body([[5, 6], [7, 8]])
    body["inputs"][0]["data"] = [[5, 6], [7, 8]]
    status, answer = server.infer("tiny", body)
    assert status == 200
    np.testing.assert_array_equal(logits_from_answer(answer), expected_logits([[5, 6], [7, 8]]))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/tiny/versions/2", 404),
        ("POST", "/v2/models/tiny/versions/2/infer", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v3", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", "/v2/models/tiny%C3%A9%FF", 404),
    ],
)
def test_what_there_is_not(server: RunningServer, method: str, path: str, status: int) -> None:
    got, headers, content = server.request(method, path, b"{}")
    assert got == status
    assert headers["content-type"] == "application/json"
    assert re.search("got .+, expected .+; .+", json.loads(content)["error"])
    assert ("allow" in headers) == (status == 405)


def test_a_compressed_body_and_a_strange_host(server: RunningServer) -> None:
    body = json.dumps(make_body([[5]])).encode()
    status, answer = server.infer("tiny", body, {"Content-Encoding": "gzip"})
    assert status == 415
    assert "no compression" in answer["error"]
    for host, expected in (("evil.example", 403), ("localhost:80", 200), ("[::1]", 200), ("LOCALHOST", 200)):
        assert server.request("GET", "/v2/models/tiny", headers={"Host": host})[0] == expected


def test_an_answer_that_would_be_too_large(tiny_artifact: Path) -> None:
    with running_server([f"a={tiny_artifact}"], "--max-response", "100000") as server:
        status, answer = server.infer("a", make_body([[5] * 64, [6] * 64]))
        assert status == 413
        assert "132096 bytes" in answer["error"]
        assert server.infer("a", make_body([[5] * 64]))[0] == 200


def test_other_tasks_types_and_keys(tmp_path: Path) -> None:
    """Several artifacts by name; a key that is asked for; bfloat16 comes as float32 and is said to be."""
    tasks = ("text-classification", "question-answering", "feature-extraction")
    folders = [write_artifact(tmp_path / task, task) for task in tasks]
    folders.append(write_artifact(tmp_path / "last", logits="last", dtype="bfloat16"))
    key = "0123456789abcdef-second"
    (tmp_path / "keys").write_text(f"# ours\n{key[:-7]}\n{key}\n")
    rows = RNG.integers(0, 258, (2, 10))
    with running_server(folders, "--api-key-file", str(tmp_path / "keys")) as server:
        for folder in folders:
            with load(folder, provider="cpu") as model:
                expected = model.run(rows)
            status, answer = server.infer(folder.name, make_body(rows))
            assert status == 401
            for wrong in ("Bearer x", f"Basic {key}", f"Bearer {key}x", "Bearer ", "Bearer \xff"):
                assert server.infer(folder.name, make_body(rows), {"Authorization": wrong})[0] == 401
            given = {"Authorization": f"bearer {key}"}
            status, answer = server.infer(folder.name, make_body(rows), given)
            assert status == 200
            assert [output["name"] for output in answer["outputs"]] == list(make_names(folder))
            for output in answer["outputs"]:
                values = np.array(output["data"], np.float32).reshape(output["shape"])
                np.testing.assert_array_equal(values, expected[output["name"]])
                assert output["datatype"] == "FP32"
            _, _, content = server.request("GET", f"/v2/models/{folder.name}", headers=given)
            shapes = [each["shape"] for each in json.loads(content)["outputs"]]
            for shape, values in zip(shapes, expected.values(), strict=True):
                assert len(shape) == values.ndim
                assert all(want in (-1, have) for want, have in zip(shape, values.shape, strict=True))
        assert server.request("GET", "/v2/health/live")[0] == 200
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.request("GET", "/metrics")[0] == 401
        text = json.dumps(server.log("request"))
        assert key not in text


def make_names(folder: Path) -> tuple[str, ...]:
    return make_spec("text-generation" if folder.name == "last" else folder.name).output_names  # type: ignore[arg-type]
