"""/v1/completions by the openai package, unmodified: each text is what `generate` gives for its seed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from reformer_export import load
from reformer_export.runtimes import Runtime
from tests.runtimes.decoders import NATIVE_MODES, decoding_artifact, draw_ids
from tests.serving.servers import RunningServer, make_body, running_server, wait_until

openai = pytest.importorskip("openai", reason="its client is not installed")

LONG: Final = (32, 64)
"""Positions of a model whose texts take long enough to be interrupted."""
NO_END: Final = {"temperature": 0.8, "top_p": 0.95}


@pytest.fixture(scope="module")
def model() -> Iterator[Runtime]:
    with load(decoding_artifact(positions=LONG), native=NATIVE_MODES[-1], threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    artifact = decoding_artifact(positions=LONG)
    limits = ("--max-queue", "100", "--concurrency", "2", "--client-timeout", "2")
    with running_server([f"bytes={artifact}"], *limits) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: RunningServer) -> Any:
    return openai.OpenAI(base_url=f"http://{served.url}/v1", api_key="none", max_retries=0)


def expected(model: Runtime, prompt: str | list[int], tokens: int, seed: int) -> tuple[str, str, int]:
    """The text that follows a prompt, why it ends, and its tokens."""
    generation = model.generate(prompt, max_new_tokens=tokens, seed=seed, **NO_END)
    ids = list(generation)
    stream = model.tokenizer.start_stream(generation.prompt_ids)
    text = "".join(map(stream.add, ids)) + stream.end()
    return text, "stop" if generation.stop_reason == "eos_token" else "length", len(ids)


@pytest.mark.parametrize("streams", [False, True])
def test_a_text(client: Any, model: Runtime, streams: bool) -> None:
    text, reason, tokens = expected(model, "In the beginning", 90, 3)
    fields: dict[str, Any] = {"prompt": "In the beginning", "max_tokens": 90, "seed": 3, **NO_END}
    if streams:
        chunks = list(
            client.completions.create(
                model="bytes", stream=True, stream_options={"include_usage": True}, **fields
            )
        )
        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == text
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] in ([None, reason], [reason])
        assert len({chunk.id for chunk in chunks}) == 1
        usage = chunks[-1].usage
    else:
        answer = client.completions.create(model="bytes", **fields)
        (choice,) = answer.choices
        assert (choice.text, choice.finish_reason, choice.index) == (text, reason, 0)
        usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (16, tokens, 16 + tokens)


@pytest.mark.parametrize("streams", [False, True])
def test_several_prompts_and_texts(client: Any, model: Runtime, streams: bool) -> None:
    """Text j of a prompt has the seed + j; ids are prompts too; a prompt is counted once."""
    ids = [draw_ids(7), draw_ids(40, seed=1)]
    fields: dict[str, Any] = {"max_tokens": 20, "seed": 9, "n": 2, "echo": True, **NO_END}
    created = client.completions.create(model="bytes", prompt=ids, stream=streams, **fields)
    texts = [""] * 4
    for answer in created if streams else [created]:
        for choice in answer.choices:
            texts[choice.index] += choice.text
    wanted = [
        model.decode(prompt) + expected(model, prompt, 20, 9 + j)[0] for prompt in ids for j in range(2)
    ]
    assert texts == wanted
    if not streams:
        assert created.usage.prompt_tokens == 47


def test_stop_strings(client: Any, model: Runtime) -> None:
    text, _, _ = expected(model, "In the", 60, 0)
    stop = text[30:32]
    answer = client.completions.create(
        model="bytes", prompt="In the", max_tokens=60, seed=0, stop=["never to be seen", stop], **NO_END
    )
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_many_streams_at_once_are_each_as_alone(served: RunningServer, model: Runtime) -> None:
    """32 requests, whole and streamed, joined and ended at other times."""

    async def complete(client: Any, index: int) -> str:
        fields: dict[str, Any] = {"prompt": f"Verse {index}", "max_tokens": 20 + 5 * index, "seed": index}
        created = await client.completions.create(model="bytes", stream=index % 3 > 0, **fields, **NO_END)
        if index % 3 == 0:
            return str(created.choices[0].text)
        return "".join([chunk.choices[0].text async for chunk in created])

    async def complete_all() -> list[str]:
        url = f"http://{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(complete(client, index) for index in range(32)))

    for index, text in enumerate(asyncio.run(complete_all())):
        assert text == expected(model, f"Verse {index}", 20 + 5 * index, index)[0]


def test_the_models_are_listed(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["bytes"]
    assert client.models.retrieve("bytes").owned_by == "reformer-export"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match=r"got '/v1/chat/completions', .*; ask /v1/completions"):
        client.chat.completions.create(model="bytes", messages=[])


WRONG: Final[list[tuple[dict[str, Any], int, str | None]]] = [
    ({"model": "other"}, 404, "model"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 5000}, 400, "max_tokens"),
    ({"max_tokens": "5"}, 400, "max_tokens"),
    ({"temperature": -0.5}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"top_k": 0}, 400, "top_k"),
    ({"top_k": 2**70}, 400, "top_k"),
    ({"seed": -1}, 400, "seed"),
    ({"n": 0}, 400, "n"),
    ({"n": 1000}, 400, "n"),
    ({"stop": [""]}, 400, "stop"),
    ({"stop": [str(index) for index in range(40)]}, 400, "stop"),
    ({"logprobs": 3}, 400, "logprobs"),
    ({"best_of": 2}, 400, "best_of"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"suffix": "end"}, 400, "suffix"),
    ({"min_tokens": 3}, 400, "min_tokens"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"stream_options": {"usage": True}}, 400, "usage"),
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": ["a", [5]]}, 400, "prompt"),
    ({"prompt": [258]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [2**64]}, 400, "prompt"),
    ({"prompt": [1.5]}, 400, "prompt"),
    ({"prompt": "a" * 2049}, 400, "prompt"),
    ({"prompt": {"text": "a"}}, 400, "prompt"),
]


def test_what_is_wrong_is_refused_by_name(served: RunningServer) -> None:
    for streams in (False, True):
        for fields, status, param in WRONG:
            body = {"prompt": "a", "stream": streams, **fields}
            got, _, content = served.request("POST", "/v1/completions", json.dumps(body).encode())
            if streams and fields == {"stream_options": {"include_usage": True}}:
                continue
            assert got == status, (fields, content)
            error = json.loads(content)["error"]
            assert error["param"] == param, error
            assert error["type"] == "invalid_request_error"
            if param in ("min_tokens", "usage"):  # unknown names: those that are known are listed
                known = {"min_tokens": "prompt, model, max_tokens,", "usage": "include_usage;"}[param]
                assert f"expected one of {known}" in error["message"]
    for raw in (b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 50000):
        status, _, content = served.request("POST", "/v1/completions", raw)
        assert (status, json.loads(content)["error"]["type"]) == (400, "invalid_request_error"), raw[:20]


def test_a_prompt_of_all_positions_ends_at_once(client: Any) -> None:
    answer = client.completions.create(model="bytes", prompt="a" * 2048, max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "length")


@pytest.fixture(scope="module")
def long(model: Runtime) -> tuple[dict[str, Any], str]:
    """The parameters of a text that takes long enough to be interrupted, and the text."""
    for seed in range(100):
        text, _, tokens = expected(model, "Long", 1000, seed)
        if tokens > 700:
            return {"model": "bytes", "prompt": "Long", "max_tokens": 1000, "seed": seed, **NO_END}, text
    raise AssertionError("every text ends early")


def test_a_killed_worker_loses_nothing(
    client: Any, served: RunningServer, long: tuple[dict[str, Any], str]
) -> None:
    """Streams that have sent something go on with the same text; those that wait are asked again."""
    fields, text = long
    streams = [iter(client.completions.create(stream=True, **fields)) for _ in range(2)]
    begun = [next(stream).choices[0].text for stream in streams]
    with ThreadPoolExecutor() as pool, served.worker_held() as pid:
        waiting = pool.submit(client.completions.create, **{**fields, "max_tokens": 40})
        os.kill(pid, signal.SIGKILL)
        for start, stream in zip(begun, streams, strict=True):
            assert start + "".join(chunk.choices[0].text for chunk in stream) == text
        assert text.startswith(waiting.result().choices[0].text.removesuffix("�"))


def test_a_client_that_leaves_ends_its_texts(
    client: Any, served: RunningServer, long: tuple[dict[str, Any], str]
) -> None:
    before = len([line for line in served.log("request") if line["status"] == 499])
    with client.completions.create(n=4, stream=True, **long[0]) as stream:
        next(iter(stream))
    wait_until(lambda: len([e for e in served.log("request") if e["status"] == 499]) == before + 1)
    line = next(line for line in reversed(served.log("request")) if line["status"] == 499)
    assert line["new_tokens"] < 2000
    wait_until(lambda: served.metric("reformer_generations") == 0)


def test_a_client_that_does_not_read_is_let_go(served: RunningServer) -> None:
    """Its stream, larger than all buffers of the system; others are answered meanwhile."""
    fields = {"prompt": "\x01" * 500, "echo": True, "n": 128, "max_tokens": 1500, "seed": 5, "stream": True}
    body = json.dumps({"model": "bytes", **fields, **NO_END}).encode()
    before = len(served.log("request"))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(served.address)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: served.metric("reformer_generations") == 128)
        assert served.infer("bytes", make_body([[5]]))[0] == 200
        wait_until(lambda: any(line["status"] == 499 for line in served.log("request")[before:]))
    line = next(line for line in served.log("request")[before:] if line["status"] == 499)
    assert 0 < line["new_tokens"] < 128 * 1500 / 2
    assert line["bytes"] < 8_000_000
    wait_until(lambda: served.metric("reformer_generations") == 0)


def test_a_full_queue_a_late_text_and_a_server_that_drains(long: tuple[dict[str, Any], str]) -> None:
    artifact = decoding_artifact(positions=LONG)
    limits = ("--max-streams", "1", "--max-queue", "2", "--timeout", "1", "--concurrency", "1")
    with running_server([f"bytes={artifact}"], *limits) as server, ThreadPoolExecutor() as pool:
        body = json.dumps({"prompt": "a", "max_tokens": 5, "n": 3}).encode()
        with server.worker_held():
            held = pool.submit(server.request, "POST", "/v1/completions", body)
            wait_until(lambda: server.metric("reformer_generations") == 3)
            status, headers, content = server.request("POST", "/v1/completions", body)
            assert status == 429
            assert headers["retry-after"]
            assert "queue" in json.loads(content)["error"]["message"]
            assert held.result()[0] == 504
        assert server.request("POST", "/v1/completions", body)[0] == 200
        fields, text = long
        client = openai.OpenAI(base_url=f"http://{server.url}/v1", api_key="none", max_retries=0)
        stream = iter(client.completions.create(stream=True, **fields))
        start = next(stream).choices[0].text
        server.process.send_signal(signal.SIGTERM)
        assert start + "".join(chunk.choices[0].text for chunk in stream) == text
        assert server.process.wait(60) == 0
