"""A worker's desk, with a channel and a model that the test plays: what runs when, and who waits for whom."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reformer_export.serving.messages import Generate, Infer, Result, Tensor
from reformer_export.serving.worker_process import _Desk

SECONDS = 5.0
"""Until the test gives up on what has to come."""


class Played:
    """The channel, the model and the scheduler of a desk; a run ends when the test says so."""

    def __init__(self, concurrency: int) -> None:
        self.asked: queue.Queue[Any] = queue.Queue()
        self.begun: queue.Queue[int] = queue.Queue()
        self.answered: queue.Queue[int] = queue.Queue()
        self.generations: queue.Queue[int] = queue.Queue()
        self.may_end: dict[int, threading.Event] = {}
        self.concurrency = concurrency
        me = cast(Any, self)
        desk = _Desk(me, me, cast(Any, None), me, 2**20, concurrency)
        self.threads = [threading.Thread(target=desk.serve, daemon=True) for _ in range(concurrency + 1)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        self.may_end[number] = threading.Event()
        tensor = Tensor("input_ids", (1, 1), "int64")
        self.asked.put((Infer(number, [tensor]), bytearray(np.int64(number).tobytes())))

    def close(self) -> None:
        """Whatever still runs ends."""
        for event in self.may_end.values():
            event.set()
        self.asked.put(None)
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()

    # What the desk calls

    def receive(self) -> Any:
        got = self.asked.get()
        if got is None:
            self.asked.put(None)  # for the other threads
        return got

    def run(self, inputs: dict[str, NDArray[np.int64]], num_hashes: int | None) -> dict[str, Any]:
        (number,) = inputs["input_ids"].ravel().tolist()
        self.begun.put(number)
        assert self.may_end[number].wait(SECONDS)
        if number % 5 == 4:
            raise ValueError("a run that fails")
        return {"logits": np.zeros((1, 1), np.float32)}

    def send(self, message: Any, *_payload: Any) -> None:
        assert isinstance(message, Result) is (message.id % 5 != 4)
        self.answered.put(message.id)

    def submit(self, message: Generate, payload: bytearray) -> None:
        self.generations.put(message.id)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.lists(st.sampled_from(["ask", "ask", "end", "generate"]), max_size=30), st.data()
)
def test_runs_begin_in_order_as_soon_as_one_has_ended_and_nothing_else_waits_for_them(
    concurrency: int, actions: list[str], data: st.DataObject
) -> None:
    with contextlib.closing(Played(concurrency)) as played:
        running: list[int] = []
        waiting: list[int] = []

        def expect_begin() -> None:
            while waiting and len(running) < concurrency:
                running.append(waiting.pop(0))
                assert played.begun.get(timeout=SECONDS) == running[-1]
            with pytest.raises(queue.Empty):
                played.begun.get_nowait()

        for number, action in enumerate([*actions, *["end"] * len(actions)]):
            if action == "ask":
                played.ask(number)
                waiting.append(number)
            elif action == "generate":
                played.asked.put((Generate(number, {}, True), bytearray()))
                assert played.generations.get(timeout=SECONDS) == number
            elif running:
                ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
                played.may_end[ended].set()
                assert played.answered.get(timeout=SECONDS) == ended
            expect_begin()
        assert not running
        assert not waiting
