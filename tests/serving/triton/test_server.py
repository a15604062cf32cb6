"""The repository in a real tritonserver: its answers are those of `model.run` and `model.generate`."""

from __future__ import annotations

import json
import queue
import random
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray

from reformer_export import load
from reformer_export.runtimes import Runtime
from tests.serving.triton.server import Server

pytestmark = pytest.mark.slow

LONGEST = 512
Rows = NDArray[np.int64]


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Runtime]:
    with load(artifact, provider="cpu", threads=1) as opened:
        yield opened


def draw_rows(rng: random.Random, rows: int, length: int) -> Rows:
    return np.array([[rng.randrange(258) for _ in range(length)] for _ in range(rows)], np.int64)


def make_inputs(client: Any, ids: Rows, mask: Rows | None = None) -> list[Any]:
    given = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
    inputs = []
    for name, values in given.items():
        inputs.append(client.InferInput(name, list(values.shape), "INT64"))
        inputs[-1].set_data_from_numpy(values)
    return inputs


def test_answers_of_every_length_are_the_models_own(server: Server, model: Runtime) -> None:
    """Over gRPC, sixteen at a time, no two of one length: they are joined, and nobody's answer shows it."""
    rng = random.Random(5)
    lengths = [1, 2, 7, 8, 9, 15, 16, 17, *range(33, 65), 499, 500, 511, LONGEST]
    lengths += rng.sample(range(65, 499), 20)
    rng.shuffle(lengths)
    asked = [draw_rows(rng, rng.choice((1, 1, 1, 3)), length) for length in lengths]
    masks = [_mask(rng, ids) if rng.random() < 0.3 else None for ids in asked]
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        before = _statistics(client)

        def ask(index: int) -> NDArray[np.float32]:
            inputs = make_inputs(tritonclient.grpc, asked[index], masks[index])
            return client.infer("reformer", inputs).as_numpy("logits")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(len(asked))))
        executions = _count_executions(client, before, sum(len(ids) for ids in asked))
    for ids, mask, answer in zip(asked, masks, answers, strict=True):
        assert np.array_equal(answer, model.run(ids, mask)["logits"]), ids.shape
    assert executions < 0.9 * len(asked), f"{executions} executions of {len(asked)} requests"


def _mask(rng: random.Random, ids: Rows) -> Rows:
    ends = np.array([[rng.randint(1, ids.shape[1])] for _ in ids])
    return (np.arange(ids.shape[1]) < ends).astype(np.int64)


def _count_executions(client: Any, before: dict[str, int], rows: int) -> int:
    """For how many executions the server says that it had them, when it has counted so many rows: it counts
    after it has answered."""
    for _ in range(100):
        after = _statistics(client)
        if after["inference_count"] - before["inference_count"] == rows:
            return after["execution_count"] - before["execution_count"]
        time.sleep(0.05)
    raise AssertionError(f"{after} after {before}, where {rows} rows were asked for")


def _statistics(client: Any) -> dict[str, int]:
    found = client.get_inference_statistics("reformer", as_json=True)["model_stats"][0]
    return {name: int(found.get(name, 0)) for name in ("inference_count", "execution_count")}


def test_http_in_binary_and_in_json(server: Server, model: Runtime) -> None:
    ids = draw_rows(random.Random(1), 2, 30)
    expected = model.run(ids)["logits"]
    with tritonclient.http.InferenceServerClient(server.http) as client:
        binary = client.infer("reformer", make_inputs(tritonclient.http, ids)).as_numpy("logits")
    assert np.array_equal(binary, expected)
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": list(ids.shape), "data": ids.tolist()}
    answer = _post(server, "reformer/infer", {"inputs": [tensor]})["outputs"][0]
    assert np.array_equal(np.array(answer["data"], np.float32).reshape(answer["shape"]), expected)


def _post(server: Server, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"http://{server.http}/v2/models/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_a_request_chooses_its_hashes(server: Server, model: Runtime) -> None:
    ids = draw_rows(random.Random(2), 1, 100)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        answers = [
            client.infer("reformer", make_inputs(tritonclient.grpc, ids), parameters={"num_hashes": count})
            for count in (1, 2)
        ]
    for count, answer in zip((1, 2), answers, strict=True):
        assert np.array_equal(answer.as_numpy("logits"), model.run(ids, num_hashes=count)["logits"])
    assert not np.array_equal(*(answer.as_numpy("logits") for answer in answers))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([[5, 258]]), "id 258 at position 1, expected ids from 0 to 257"),
        (np.zeros((1, LONGEST + 1), np.int64), "513 tokens, expected at most 512"),
    ],
)
def test_a_request_that_is_refused_says_why_and_harms_nobody(
    server: Server, model: Runtime, ids: Rows, words: str
) -> None:
    good = draw_rows(random.Random(3), 1, 20)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(2) as pool:
        bad = pool.submit(client.infer, "reformer", make_inputs(tritonclient.grpc, ids))
        answer = pool.submit(client.infer, "reformer", make_inputs(tritonclient.grpc, good))
        with pytest.raises(tritonclient.utils.InferenceServerException, match=words):
            bad.result()
        assert np.array_equal(answer.result().as_numpy("logits"), model.run(good)["logits"])


class Reader:
    """The streams of one gRPC connection."""

    def __init__(self, server: Server) -> None:
        self.client = tritonclient.grpc.InferenceServerClient(server.grpc)
        self.responses: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(lambda result, error: self.responses.put(error or result))

    def ask(self, request_id: str, **given: Any) -> None:
        """Let a generation begin."""
        kinds = {float: ("FP64", np.float64), int: ("INT64", np.int64), str: ("BYTES", np.object_)}
        inputs = []
        for name, value in given.items():
            values = value if isinstance(value, list) else [value]
            name_of_kind, kind = kinds[type(values[0])]
            data = np.array([v.encode() if isinstance(v, str) else v for v in values], kind)
            inputs.append(tritonclient.grpc.InferInput(name, [len(values)], name_of_kind))
            inputs[-1].set_data_from_numpy(data)
        self.client.async_stream_infer(
            "reformer-generate", inputs, request_id=request_id, enable_empty_final_response=False
        )

    def read(self, streams: int) -> dict[str, tuple[list[int], str, str]]:
        """Token ids, text and reason of so many generations, by their ids."""
        ids: dict[str, list[int]] = {}
        texts: dict[str, str] = {}
        reasons: dict[str, str] = {}
        while len(reasons) < streams:
            result = self.responses.get(timeout=30)
            assert not isinstance(result, Exception), result
            key = result.get_response().id
            ids.setdefault(key, []).extend(result.as_numpy("token_id").tolist())
            texts[key] = texts.get(key, "") + result.as_numpy("text_output")[0].decode()
            if reason := result.as_numpy("stop_reason")[0].decode():
                reasons[key] = reason
        return {key: (ids[key], texts[key], reasons[key]) for key in reasons}


def test_streams_are_the_models_own_generations(server: Server, model: Runtime) -> None:
    """More than step together, of unlike options, some by text and some by ids."""
    rng = random.Random(4)
    asked: dict[str, dict[str, Any]] = {}
    for number in range(9):
        ids = [rng.randrange(258) for _ in range(rng.randint(1, 300))]
        options = {
            "seed": number,
            "temperature": rng.choice((0.0, 0.7, 1.3)),
            "max_new_tokens": rng.randint(1, 40),
        }
        options |= {"num_hashes": 1} if number % 3 == 1 else {}
        options |= {"top_k": 5, "top_p": 0.9} if number % 2 else {"eos_token_id": [rng.randrange(258), 7]}
        asked[str(number)] = (
            {"text_input": "In the ä"} | options if number == 3 else {"input_ids": ids} | options
        )
    reader = Reader(server)
    for key, given in asked.items():
        reader.ask(key, **given)
    found = reader.read(len(asked))
    reader.client.stop_stream()
    for key, given in asked.items():
        options = {name: value for name, value in given.items() if name not in ("text_input", "input_ids")}
        generation = model.generate(given.get("text_input", given.get("input_ids")), **options)
        tokens = list(generation)
        text = (
            "".join(model.generate(given.get("text_input", given.get("input_ids")), **options).pieces())
            if "text_input" in given
            else None
        )
        assert found[key][0] == tokens, key
        assert found[key][2] == generation.stop_reason
        if text is not None:
            assert found[key][1] == text


def test_events_over_http(server: Server, model: Runtime) -> None:
    body = json.dumps({"text_input": "In the beginning", "max_new_tokens": 7, "temperature": 0.9})
    url = f"http://{server.http}/v2/models/reformer-generate/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body.encode()), timeout=30) as response:
        lines = response.read().decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    expected = model.generate("In the beginning", max_new_tokens=7, temperature=0.9)
    assert "".join(event["text_output"] for event in events) == expected.text
    assert events[-1]["stop_reason"] == expected.stop_reason


def test_a_stream_stops_before_a_string(server: Server, model: Runtime) -> None:
    given: dict[str, Any] = {"text_input": "In the", "max_new_tokens": 60, "temperature": 1.0, "seed": 3}
    whole = model.generate("In the", max_new_tokens=60, temperature=1.0, seed=3).text
    stop = whole[10:12]
    reader = Reader(server)
    reader.ask("a", **given, stop=["never there", stop])
    _, text, reason = reader.read(1)["a"]
    reader.client.stop_stream()
    assert (text, reason) == (whole[: whole.index(stop)], "stop_string")


def test_a_stream_that_is_refused_says_why(server: Server) -> None:
    reader = Reader(server)
    reader.ask("a", input_ids=[5], temperature=-1.0)
    assert "temperature: got -1.0, expected 0 or more" in str(reader.responses.get(timeout=10))
    reader.ask("b", input_ids=[5], text_input="a")
    assert "prompt: got text_input and input_ids" in str(reader.responses.get(timeout=10))
    reader.client.stop_stream()


def test_a_cancelled_stream_stops(server: Server) -> None:
    """Four that last have all places and leave: the next does not wait until their tokens would have come."""
    whole = time_of_streams(server, 4, leave=False)
    begun = time.monotonic()
    time_of_streams(server, 4, leave=True)
    other = Reader(server)
    other.ask("next", input_ids=[5], max_new_tokens=3)
    assert other.read(1)["next"][2] == "max_new_tokens"
    assert time.monotonic() - begun < whole / 2
    other.client.stop_stream()


def time_of_streams(server: Server, count: int, leave: bool) -> float:
    """Seconds of so many generations of 300 tokens, each after a whole pass, so that computing them is what
    takes time; or until their client leaves after the first few."""
    reader = Reader(server)
    begun = time.monotonic()
    for number in range(count):
        reader.ask(str(number), input_ids=[5] * 200, max_new_tokens=300, eos_token_id=[0], refresh=1)
    if leave:
        taken = [reader.responses.get(timeout=10) for _ in range(5 * count)]
        assert not any(isinstance(each, Exception) for each in taken)
    else:
        reader.read(count)
    reader.client.stop_stream(cancel_requests=leave)
    return time.monotonic() - begun
