"""A worker as the front process sees it: where a run's outputs lie, and for how long."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.serving.connection import WorkerConnection
from reformer_export.serving.messages import Infer, Ready, Result, Start, Tensor, arrays_from_payload
from reformer_export.serving.shared_memory import REGIONS, SharedMemory
from reformer_export.serving.worker import Worker, WorkerDiedError
from reformer_export.serving.worker_start import RunningProcess

START = Start("/a", {}, {}, None, 4, 10, 100)
READY = Ready("CPU", [], 64, True, 2, False)
TENSORS = [Tensor("logits", (2, 3))]


class StandIn:
    """Keeps what it is sent; the test answers."""

    def __init__(self) -> None:
        self.sent: list[Infer] = []

    def send(self, message: Infer, *_payload: Any) -> None:
        self.sent.append(message)


def make_worker() -> tuple[Worker, StandIn]:
    connection, worker = StandIn(), Worker(START, 4096, lambda event, **fields: None)
    worker._process = RunningProcess(cast(Any, None), cast(WorkerConnection, connection), SharedMemory(4096))
    worker.facts, worker.is_up = READY, True
    return worker, connection


def test_room_is_a_request_s_until_the_worker_has_answered_and_the_answer_is_sent() -> None:
    """Whoever still waits for it: the worker may write there until then."""
    worker, connection = make_worker()
    told: list[tuple[Any, memoryview]] = []
    for _ in range(REGIONS + 1):
        worker.infer(Infer(0, []), (), lambda *answer: told.append(answer))
    places = [message.at for message in connection.sent if message.room]
    assert len(set(places)) == len(places) == REGIONS
    assert connection.sent[-1].room == 0
    assert worker._process is not None
    values = np.arange(6, dtype=np.float32)
    np.frombuffer(worker._process.memory._memory, np.float32, 6, places[3])[:] = values
    worker._on_message(Result(4, TENSORS, 1.0, 24), memoryview(b""))
    np.testing.assert_array_equal(arrays_from_payload(told[0][1], TENSORS)["logits"].ravel(), values)
    assert worker._process.memory.take() is None
    told.clear()
    place = worker._process.memory.take()
    assert place is not None
    assert place[0] == places[3]


def test_outputs_that_find_no_room_come_as_they_are() -> None:
    worker, _ = make_worker()
    told: list[tuple[Any, memoryview]] = []
    worker.infer(Infer(0, []), (), lambda *answer: told.append(answer))
    worker._on_message(Result(1, TENSORS, 1.0), memoryview(bytes(24)))
    assert len(told[0][1]) == 24
    assert not worker._calls
    worker.infer(Infer(0, []), (), lambda *answer: told.append(answer))
    worker.is_up = False  # so that no other is started
    worker._on_lost(0, None)
    assert isinstance(told[1][0], WorkerDiedError)


def test_one_that_is_killed_while_it_opens_the_artifact_says_so(tiny_artifact: Path) -> None:
    async def run() -> None:
        start = Start(str(tiny_artifact), {}, {}, None, 4, 10, 100)
        worker = Worker(start, 4096, lambda event, **fields: None)
        starting = asyncio.ensure_future(worker.start())
        while worker.pid is None:
            await asyncio.sleep(0.001)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(RuntimeUnavailableError, match="a worker that was ended by SIGKILL"):
            await starting
        await worker.close()

    asyncio.run(run())


def test_one_run_is_kept_in_hand_on_the_cpu_alone() -> None:
    worker, _ = make_worker()
    assert (worker.concurrency, worker.capacity) == (2, 3)
    worker.facts = msgspec.structs.replace(READY, on_gpu=True)
    assert (worker.concurrency, worker.capacity) == (2, 2)
