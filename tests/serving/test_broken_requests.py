"""Requests that are wrong: each is refused in one line before it waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.serving.servers import RunningServer, make_body

Broken = Callable[[dict[str, Any]], Any]
BROKEN: dict[str, tuple[Broken | bytes, str]] = {
    "no JSON": (b"{'inputs'", "body: got"),
    "nothing": (b"", "body: got"),
    "deep": (b"[" * 50_000, "body: got"),
    "deep data": (
        b'{"inputs":[{"name":"input_ids","shape":[1,1],"datatype":"INT64","data":' + b"[" * 9000,
        "bo",
    ),
    "not UTF-8": (b'{"id": "\xff"}', "body: got"),
    "a list": (b"[]", "Expected 'object'"),
    "no inputs": (b"{}", "inputs"),
    "no input_ids": (b'{"inputs": []}', "input_ids: got none"),
    "id": (lambda body: {**body, "id": 5}, "$.id"),
    "parameter": (lambda body: {**body, "parameters": {"sequence_id": 5}}, "sequence_id"),
    "timeout": (lambda body: {**body, "parameters": {"timeout": -5}}, "microseconds"),
    "num_hashes": (lambda body: {**body, "parameters": {"num_hashes": 3}}, "num_hashes"),
    "output": (lambda body: {**body, "outputs": [{"name": "buckets"}]}, "of logits"),
    "output twice": (lambda body: {**body, "outputs": [{"name": "logits"}] * 2}, "twice"),
    "class": (
        lambda body: {**body, "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        "classification",
    ),
    "input twice": (lambda body: {"inputs": body["inputs"] * 2}, "twice"),
    "tensor": (lambda body: make_body([[5]])["inputs"][0] | {"name": "x"}, "unknown field 'name'"),
    "name": (lambda body: change(body, name="token_type_ids"), "each of input_ids, attention_mask"),
    "type": (lambda body: change(body, datatype="FP32"), "INT64 or INT32"),
    "float": (lambda body: change(body, data=[5.5, 6, 7]), "data"),
    "bool": (lambda body: change(body, data=[True, 6, 7]), "data"),
    "text": (lambda body: change(body, data="abc"), "data"),
    "huge": (lambda body: change(body, data=[5, 6, 10**30]), "data"),
    "64 bits": (lambda body: change(body, data=[5, 6, 2**63]), "64 bits"),
    "32 bits": (lambda body: change(body, datatype="INT32", data=[5, 6, 2**40]), "more bits"),
    "vocabulary": (lambda body: change(body, data=[5, 6, 258]), "id 258 at position 2"),
    "negative": (lambda body: change(body, data=[-1, 6, 7]), "id -1 at position 0"),
    "few": (lambda body: change(body, data=[5, 6]), "2 values"),
    "no data": (lambda body: change(body, data=[]), "0 values"),
    "one axis": (lambda body: change(body, shape=[3]), "[batch, sequence]"),
    "zero": (lambda body: change(body, shape=[1, 0], data=[]), "at least 1"),
    "overflow": (lambda body: change(body, shape=[2**31, 2**31]), "values"),
    "beyond": (lambda body: change(body, shape=[2**40, 1]), "at least 1 each"),
    "long": (lambda body: change(body, shape=[1, 65], data=[5] * 65), "65 tokens"),
    "uneven": (lambda body: change(body, shape=[2, 2], data=[[5, 6], [7]]), "make them agree"),
    "binary": (lambda body: change(body, parameters={"binary_data_size": 24}), "and data"),
    "field": (lambda body: {**body, "output": []}, "unknown field 'output'"),
    "tensor's field": (lambda body: change(body, parameter={}), "unknown field 'parameter'"),
    "shared": (lambda body: change(body, parameters={"shared_memory_region": "x"}), "shared_memory_region"),
}


def change(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**body, "inputs": [{**body["inputs"][0], **fields}]}


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_is_wrong(server: RunningServer, name: str) -> None:
    make, words = BROKEN[name]
    body = make if isinstance(make, bytes) else make(make_body([[5, 6, 7]]))
    status, answer = server.infer("tiny", body)
    assert status == 400
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 700


def test_a_time_of_any_length_is_one(server: RunningServer) -> None:
    for microseconds in (10**30, 10**400):
        assert server.infer("tiny", make_body([[5]], parameters={"timeout": microseconds}))[0] == 200


def test_the_log_repeats_no_word_of_a_request_that_is_refused(server: RunningServer) -> None:
    word, body = "hunter2", make_body([[5]])
    named = {"name": word, "parameters": {word: 1}}
    for path, sent in (
        ("v1/completions", {word: 1}),
        ("v1/completions", {"prompt": "a", "stream": True, "stream_options": {word: 1}}),
        ("v1/completions", {"prompt": {word: 1}, "model": "tiny"}),
        ("v1/completions", {"prompt": "a", "model": word}),
        ("v2/models/tiny/infer", {**body, word: 1}),
        ("v2/models/tiny/infer", {**body, "parameters": {word: 1}}),
        ("v2/models/tiny/infer", {**body, "outputs": [named]}),
        ("v2/models/tiny/infer", {**body, "outputs": [{"name": word}, {"name": word}]}),
        ("v2/models/tiny/infer", change(body, name=word)),
        ("v2/models/tiny/infer", change(body, datatype=word)),
        ("v2/models/tiny/infer", change(body, parameters={word: 1})),
        ("v2/models/tiny/infer", change(body, data=[word])),
        (f"v2/models/{word}/infer", body),
        (f"{word}/{word}", body),
    ):
        status, _, answer = server.request("POST", f"/{path}", json.dumps(sent).encode())
        assert status in (400, 404), answer
    assert word not in json.dumps(server.log())


@pytest.mark.parametrize(
    ("length", "words"),
    [("5", "body"), ("999999", "at most"), ("-1", "whole number"), ("١", "whole number"), ("9" * 40, "most")],
)
def test_a_wrong_length_of_the_header(server: RunningServer, length: str, words: str) -> None:
    body = json.dumps(make_body([[5]])).encode()
    headers = {"Inference-Header-Content-Length": length.encode("utf-8").decode("latin-1")}
    status, answer = server.infer("tiny", body, headers)
    assert status == 400
    assert words in answer["error"]
