"""A completion's events and its end, with a worker of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from reformer_export.serving.completion import MAX_PENDING, Completion
from reformer_export.serving.completion_body import read_completion_body
from reformer_export.serving.messages import Begun, Failure, Generate, Piece
from reformer_export.serving.refusals import NotReadyError
from reformer_export.serving.worker import Worker, WorkerDiedError


class StandIn:
    """Keeps what it is asked; the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Generate, bytes, Callable[[Any], None]]] = []
        self.cancelled: list[int] = []
        self.is_up = True
        self.generations: set[object] = set()
        self.retrying = asyncio.Lock()

    def generate(self, message: Generate, payload: bytes, sink: Callable[[Any], None]) -> int:
        if not self.is_up:
            raise WorkerDiedError
        self.asked.append((message, payload, sink))
        return len(self.asked) - 1

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)

    async def wait_until_up(self) -> None:
        while not self.is_up:
            await asyncio.sleep(0)

    def answer(self, index: int, *answers: Any) -> None:
        for each in answers:
            self.asked[index][2](each)


def make(worker: StandIn, **fields: Any) -> Completion:
    body = read_completion_body(json.dumps({"prompt": "In", **fields}).encode())
    return Completion(cast(Worker, worker), "tiny", body, ["In"], 100)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def texts_of(events: bytes) -> list[tuple[int, str, str | None]]:
    """Index, text and reason of each event but [DONE]."""
    values = [json.loads(each[6:]) for each in events.decode().split("\n\n") if each.startswith("data: {")]
    choices = [choice for value in values for choice in value.get("choices", ())]
    return [(each["index"], each["text"], each["finish_reason"]) for each in choices]


def test_what_came_meanwhile_goes_out_in_one_event_a_text() -> None:
    async def run() -> None:
        worker = StandIn()
        completion = make(worker, n=2, stream=True, echo=True, seed=4)
        beginning = asyncio.ensure_future(completion.begin())
        await turn()
        assert [each[0].options["seed"] for each in worker.asked] == [4, 5]
        worker.answer(0, Begun(0, 2, "In"), Piece(0, [5], "a"))
        await turn()
        assert not beginning.done(), "the second prompt may still be refused"
        worker.answer(1, Begun(1, 2, "In"))
        await beginning
        events = completion.events()
        assert texts_of(await anext(events)) == [(0, "Ina", None), (1, "In", None)]
        worker.answer(0, Piece(0, [6], "b"), Piece(0, [7], ""), Piece(0, [8], "cd", "eos_token"))
        worker.answer(1, Piece(1, [9], "e"))
        assert texts_of(await anext(events)) == [(0, "bcd", "stop"), (1, "e", None)]
        worker.answer(1, Piece(1, [], "", "max_new_tokens"))
        last = await anext(events)
        assert texts_of(last) == [(1, "", "length")]
        assert last.endswith(b"data: [DONE]\n\n")
        assert completion.usage == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
        assert [event async for event in events] == []

    asyncio.run(run())


def test_a_client_that_does_not_read_is_given_up() -> None:
    async def run() -> None:
        worker = StandIn()
        completion = make(worker, stream=True)
        beginning = asyncio.ensure_future(completion.begin())
        await turn()
        worker.answer(0, Begun(0, 2), Piece(0, [5], "a"))
        await beginning
        events = completion.events()
        await anext(events)  # and from here on nothing takes them, as where sending waits
        worker.answer(0, *[Piece(0, [5], "x" * 1000)] * (MAX_PENDING // 1000))
        assert worker.cancelled == []
        worker.answer(0, Piece(0, [5], "x" * 1000))
        assert worker.cancelled == [0]
        last = await anext(events)
        assert b'"error"' in last
        assert b"[DONE]" not in last
        assert [event async for event in events] == []

    asyncio.run(run())


def test_a_worker_that_dies_is_followed_by_the_next_with_what_was_sent() -> None:
    async def run() -> None:
        worker = StandIn()
        completion = make(worker)
        beginning = asyncio.ensure_future(completion.begin())
        await turn()
        worker.answer(0, Begun(0, 2), Piece(0, [5], "a"), Piece(0, [6], "b"))
        worker.is_up = False
        worker.answer(0, None)
        await turn()
        assert len(worker.asked) == 1
        worker.is_up = True
        await turn()
        assert worker.asked[1][0].given == [5, 6]
        worker.answer(1, Begun(1, 2), Piece(1, [7], "c", "stop_string"))
        await beginning
        (choice,) = json.loads(completion.whole())["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("abc", "stop")

    asyncio.run(run())


def test_a_text_that_ends_workers_is_given_up_and_takes_no_other_along() -> None:
    """Three texts that nothing has come of: after a death they are tried one at a time."""

    async def run() -> None:
        worker = StandIn()
        completions = [make(worker) for _ in range(3)]
        beginning = [asyncio.ensure_future(each.begin()) for each in completions]
        await turn()
        for index in range(3):
            worker.answer(index, None)
        await turn()
        assert len(worker.asked) == 4, "the first of them, alone"
        worker.answer(3, Begun(3, 2), Piece(3, [5], "a"))
        await turn()
        assert len(worker.asked) == 5, "the second, beside the first"
        worker.answer(3, None)
        worker.answer(4, None)  # which ends this worker, too
        await turn()
        with pytest.raises(NotReadyError, match="workers that died"):
            await beginning[1]
        assert [each[0].given for each in worker.asked[5:]] == [[5], []]
        worker.answer(5, Piece(5, [6], "b", "eos_token"))
        worker.answer(6, Begun(6, 2), Piece(6, [7], "c", "eos_token"))
        await beginning[0]
        await beginning[2]
        texts = [json.loads(completions[index].whole())["choices"][0]["text"] for index in (0, 2)]
        assert texts == ["ab", "c"]
        assert worker.generations == set()

    asyncio.run(run())


def test_an_error_under_way_is_the_last_event() -> None:
    async def run() -> None:
        worker = StandIn()
        completion = make(worker, stream=True)
        beginning = asyncio.ensure_future(completion.begin())
        await turn()
        worker.answer(0, Begun(0, 2), Piece(0, [5], "a"))
        await beginning
        worker.answer(0, Failure(0, "InputError", ("logits", "NaN or infinity", "finite numbers", "")))
        events = b"".join([each async for each in completion.events()])
        assert texts_of(events) == [(0, "a", None)]
        assert b"NaN or infinity" in events
        assert b"[DONE]" not in events

    asyncio.run(run())
