"""The scheduler of generation: each text as it is alone, whatever joins, leaves or fails beside it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.serving.generation_worker import GenerationWorker
from reformer_export.serving.messages import Begun, Failure, Generate, Piece, Pieces
from tests.runtimes.artifacts import next_token_table, write_artifact
from tests.runtimes.decoders import LONGEST, NATIVE_MODES, decoding_artifact, draw_ids

SECONDS = 60


@dataclass
class Told:
    """What a scheduler has sent, by request."""

    begun: dict[int, Begun] = field(default_factory=dict)
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, message: Any) -> None:
        with self.changed:
            if isinstance(message, Begun):
                self.begun[message.id] = message
            elif isinstance(message, Failure):
                self.failures[message.id] = message
            else:
                assert isinstance(message, Pieces)
                for piece in message.pieces:
                    self.pieces.setdefault(piece.id, []).append(piece)
            self.changed.notify_all()

    def is_over(self, request: int) -> bool:
        pieces = self.pieces.get(request)
        return request in self.failures or (bool(pieces) and pieces[-1].reason is not None)

    def wait(self, *requests: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: all(map(self.is_over, requests)), SECONDS)

    def wait_for_tokens(self, request: int, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.pieces.get(request, ())) >= count, SECONDS)

    def ids(self, request: int) -> list[int]:
        return [token for piece in self.pieces[request] for token in piece.ids]

    def text(self, request: int) -> str:
        return "".join(piece.text for piece in self.pieces[request])


@pytest.fixture(scope="module")
def model() -> Iterator[Runtime]:
    with load(decoding_artifact(), native=NATIVE_MODES[-1], threads=1, open_for="generate") as opened:
        yield opened


@contextmanager
def worker_of(model: Runtime, **limits: int) -> Iterator[tuple[GenerationWorker, Told]]:
    told = Told()
    given: dict[str, int] = {"lanes": 2, "max_streams": 8, "max_cache": 2**30, **limits}
    worker = GenerationWorker(model, told.take, **given)
    yield worker, told
    worker.scheduler.close()


def ask(worker: GenerationWorker, request: int, prompt: str | list[int], **fields: Any) -> None:
    names = {"stop", "echo", "given"}
    options = {key: value for key, value in fields.items() if key not in names}
    message = Generate(
        request, options, isinstance(prompt, str), **{k: fields[k] for k in names & set(fields)}
    )
    payload = prompt.encode() if isinstance(prompt, str) else np.array(prompt, np.int64).tobytes()
    worker.submit(message, payload)


def draw_requests(count: int) -> list[tuple[list[int], dict[str, Any]]]:
    draw = random.Random(count)
    return [
        (
            draw_ids(draw.randint(1, LONGEST), seed=index),
            {
                "max_new_tokens": draw.randint(1, 60),
                "seed": draw.randint(0, 99),
                "temperature": draw.choice([0.0, 0.7, 1.3]),
                "top_k": draw.choice([None, 5]),
                "top_p": draw.choice([1.0, 0.9]),
            },
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("lanes", [1, 3])
def test_each_text_is_as_alone(model: Runtime, lanes: int) -> None:
    """32 requests, some of them cancelled under way, on 8 places."""
    requests = draw_requests(32)
    cancelled = range(0, 32, 5)
    with worker_of(model, lanes=lanes) as (worker, told):
        for index, (prompt, options) in enumerate(requests):
            ask(worker, index, prompt, **options)
            if index in cancelled:
                worker.cancel(index)
        rest = [index for index in range(32) if index not in cancelled]
        told.wait(*rest)
    for index in rest:
        alone = model.generate(requests[index][0], **requests[index][1])
        expected = list(alone)
        assert told.ids(index) == expected, index
        assert told.pieces[index][-1].reason == alone.stop_reason
        assert told.text(index) == "".join(decode_all(model, requests[index][0], expected))
        assert told.begun[index].prompt_tokens == len(requests[index][0])


def decode_all(model: Runtime, prompt: list[int], ids: list[int]) -> Iterator[str]:
    stream = model.tokenizer.start_stream(prompt)
    yield from map(stream.add, ids)
    yield stream.end()


def test_one_goes_on_where_another_worker_died(model: Runtime) -> None:
    """After any number of tokens: nothing is told twice, and the whole is the text as if nothing had been."""
    options: dict[str, Any] = {"max_new_tokens": 40, "seed": 5, "stop": ["\x00never"]}
    with worker_of(model) as (worker, told):
        ask(worker, 0, "In the", **options)
        told.wait(0)
        pieces = told.pieces[0]
        for count in (0, 1, 7, len(pieces) - 1):
            ask(worker, 1 + count, "In the", given=[t for p in pieces[:count] for t in p.ids], **options)
            told.wait(1 + count)
            assert [(p.ids, p.text, p.reason) for p in told.pieces[1 + count]] == [
                (p.ids, p.text, p.reason) for p in pieces[count:]
            ]


def test_prompts_do_not_hold_up_those_that_run(model: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 prompts of 60 tokens that come at once, four join between two steps."""
    calls: list[str] = []
    add, step = DecodingState.add, DecodingState.step

    def note_add(state: DecodingState, prompt: Any) -> int:
        calls.append("a")
        return add(state, prompt)

    def note_step(state: DecodingState, tokens: Any) -> None:
        calls.append("s")
        step(state, tokens)

    monkeypatch.setattr(DecodingState, "add", note_add)
    monkeypatch.setattr(DecodingState, "step", note_step)
    with worker_of(model, lanes=1, max_streams=32) as (worker, told):
        for index in range(20):
            ask(worker, index, draw_ids(60, seed=index), max_new_tokens=30)
        told.wait(*range(20))
    runs = "".join(calls).split("s")
    assert max(map(len, runs)) <= 4
    assert sum(map(len, runs)) == 20


def test_a_cancelled_stream_leaves_at_the_next_step(model: Runtime) -> None:
    with worker_of(model, max_streams=1, lanes=1) as (worker, told):
        ask(worker, 0, [5], max_new_tokens=90)
        ask(worker, 1, [6], max_new_tokens=3)
        told.wait_for_tokens(0, 2)
        worker.cancel(0)
        worker.cancel(77)
        told.wait(1)
        assert not told.is_over(0)
        assert len(told.ids(1)) == 3


def test_what_memory_has_no_room_for_waits_or_is_refused(model: Runtime) -> None:
    """Room for two short sequences at a time, or for one of the longest alone."""
    with model.start_decoding() as state:
        one, two = state.foresee_nbytes(1, LONGEST), state.foresee_nbytes(2, LONGEST)
    assert one < two
    with worker_of(model, lanes=2, max_cache=one) as (worker, told):
        for index in range(6):
            ask(worker, index, draw_ids(3 + 10 * index), max_new_tokens=20)
        told.wait(*range(6))
        assert not told.failures
        for index in range(6):
            expected = model.generate(draw_ids(3 + 10 * index), max_new_tokens=20)
            assert told.ids(index) == list(expected)
        groups = [group for lane in worker.scheduler.lanes for group in lane.values()]
        assert sum(group.nbytes for group in groups) <= one
    with worker_of(model, max_cache=one - 1) as (worker, told):
        ask(worker, 0, [5], max_new_tokens=20)
        assert told.failures[0].kind == "InputError"
        assert "max_cache" in " ".join(told.failures[0].parts)


def test_a_step_that_fails_ends_its_streams_and_the_next_are_served(
    model: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker_of(model, lanes=1) as (worker, told):
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise InputError("the step", "a failure", "none", "wait")

            broken.setattr(DecodingState, "step", fail)
            ask(worker, 0, [5, 6], max_new_tokens=9)
            told.wait(0)
        assert told.failures[0].parts == ("the step", "a failure", "none", "wait")
        ask(worker, 1, [5, 6], max_new_tokens=9)
        told.wait(1)
        assert told.ids(1) == list(model.generate([5, 6], max_new_tokens=9))


def test_refused_prompts_say_why(model: Runtime) -> None:
    with worker_of(model) as (worker, told):
        ask(worker, 0, [])
        ask(worker, 1, [5] * (LONGEST + 1))
        ask(worker, 2, [258])
        ask(worker, 3, "a", temperature=-1)
        at_fault = [told.failures[index].parts[0] for index in range(4)]
        assert at_fault == ["prompt", "prompt", "prompt, position 0", "temperature"]
        ask(worker, 4, [5] * LONGEST)
        told.wait(4)
        assert (told.ids(4), told.pieces[4][0].reason) == ([], "max_length")


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """An artifact without decode.onnx: after a byte comes the next one."""
    folder = tmp_path_factory.mktemp("counting") / "out"
    with load(write_artifact(folder, table=100 * next_token_table(258)), threads=1) as opened:
        yield opened


def test_without_steps_each_token_is_a_pass(counting: Runtime) -> None:
    with worker_of(counting) as (worker, told):
        ask(worker, 0, "a", max_new_tokens=5, echo=True)
        ask(worker, 1, "A", max_new_tokens=60, stop=["JK", "IJx", "KLM"])
        told.wait(0, 1)
    assert (told.begun[0].prompt, told.text(0)) == ("a", "bcdef")
    assert (told.text(1), told.pieces[1][-1].reason) == ("BCDEFGHI", "stop_string")
