"""Prompts in the body of a request to /v1/completions: what they are, and what is refused, piece by piece."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.errors import InputError
from reformer_export.serving import json_values
from reformer_export.serving.completion_body import (
    MAX_CHOICES,
    generations_from_body,
    read_completion_body,
    read_prompts,
)
from tests.fuzz.targets import run_at_once

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


def read(prompt: bytes) -> list[Any]:
    """What the messages to a worker have of a prompt in JSON, which other fields may follow."""
    body = read_completion_body(b'{"prompt": %b}' % prompt)
    generations = generations_from_body(body, run_at_once(read_prompts(body)), 100)
    return [
        payload.decode() if message.is_text else np.frombuffer(payload, np.int64).tolist()
        for message, payload in generations
    ]


@settings(max_examples=100, deadline=None)
@given(st.one_of(IDS, st.lists(IDS, min_size=1, max_size=9)), st.integers(1, 70), st.integers(0, 3))
def test_ids_in_pieces(prompt: list[Any], piece: int, indent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "PIECE", piece)
        found = read(json.dumps(prompt, indent=indent or None).encode())
    assert found == (prompt if isinstance(prompt[0], list) else [prompt])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=MAX_CHOICES), st.booleans(), st.integers(0, 3))
def test_texts(texts: list[str], is_alone: bool, indent: int) -> None:
    prompt = texts[0] if is_alone else texts
    text = json.dumps(prompt, indent=indent or None, ensure_ascii=indent == 0).encode()
    assert read(text) == (texts[:1] if is_alone else texts)


@pytest.mark.parametrize(
    ("prompt", "got"),
    [
        (b"[]", "an empty list"),
        (b"[[ ]]", "an empty list"),
        (b"[[5], []]", "an empty list"),
        (b"[[5], 6]", "lists and other values"),
        (b"[5, [6]]", "lists and other values"),
        (b'[[5], "a"]', "lists and other values"),
        (b"[[5], [[6]]]", "lists and other values"),
        (b"[[[5]]]", "lists and other values"),
        (b"[5, 1.0]", "got 'float'"),
        (b"[5, true]", "got 'bool'"),
        (b'[5, "a"]', "got 'str'"),
        (b'[["]"]]', "lists and other values"),
        (b"[18446744073709551616]", "a number of more than 64 bits"),
        (b'["a", 5]', "got 'int'"),
        (b'["a", ["b"]]', "got 'array'"),
        (b'"\xff"', "what cannot be read"),
        (b"null", "'null'"),
        (b'{"text": "a"}', "text"),
        (b"[%b]" % b",".join([b"[5]"] * (MAX_CHOICES + 1)), f"{MAX_CHOICES + 1} lists"),
        (json.dumps(["a"] * (MAX_CHOICES + 1)).encode(), "at most length"),
    ],
)
def test_what_is_no_prompt(prompt: bytes, got: str) -> None:
    with pytest.raises(InputError) as refused:
        read(prompt)
    assert refused.value.what == "prompt"
    assert got in refused.value.got


def test_others_have_a_turn_while_ids_are_read() -> None:
    body = read_completion_body(b'{"prompt": [%b]}' % b",".join([b"1234567"] * 300_000))
    reading = read_prompts(body).__await__()
    assert len(list(reading)) >= 2_400_000 // (2 * json_values.PIECE)


@pytest.mark.parametrize("name", ["stop", "logit_bias", "best_of", "suffix", "frequency_penalty"])
@pytest.mark.parametrize("element", ["[]", "{}", '""'])
def test_long_lists_are_not_decoded(monkeypatch: pytest.MonkeyPatch, name: str, element: str) -> None:
    decoded: list[Any] = []
    real = msgspec.json.decode

    def decode(raw: Any, **options: Any) -> Any:
        decoded.append(real(raw, **options))
        return decoded[-1]

    monkeypatch.setattr(msgspec.json, "decode", decode)
    with pytest.raises(InputError) as refused:
        read(b'"a", "%b": [%b]' % (name.encode(), b",".join([element.encode()] * 100_000)))
    assert refused.value.what == name
    values = [*msgspec.structs.astuple(decoded[0]), *decoded[1:]]
    assert not any(isinstance(value, list) for value in values)


@pytest.mark.parametrize("zero", ["null", "0", "0.0", "-0"])
def test_values_that_ask_for_nothing(zero: str) -> None:
    others = f'"frequency_penalty": {zero}, "logit_bias": {{ }}, "suffix": "", "best_of": 1.0, "stop": null'
    assert read(f'"a", {others}'.encode()) == ["a"]
