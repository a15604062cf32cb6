"""The queue, with a worker that the test plays: who runs together, who is sent again, who is refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.serving.batcher import Answered, Batcher, BatchLimits
from reformer_export.serving.joining import Request, SequenceJoiner
from reformer_export.serving.messages import Infer, Result, Tensor
from reformer_export.serving.refusals import NotReadyError, QueueFullError
from reformer_export.serving.worker import OnRun, WorkerDiedError
from tests.runtimes.artifacts import make_manifest, make_spec

JOINER = SequenceJoiner(make_manifest(Path(), make_spec(), "float32", ()), 0)
"""Chunks of 8 tokens: up to 8 nothing is padded, beyond that to a multiple of 8."""
WIDTH = 3


class PlayedWorker:
    """Answers each id t of a row with (t, the row's length by its mask, rows of the batch); `script` may
    raise."""

    def __init__(self, concurrency: int = 1) -> None:
        self.is_up = True
        self.gives_up = False
        self.on_change: list[Callable[[], None]] = []
        self.concurrency = self.capacity = concurrency
        self.batches: list[tuple[int, ...]] = []
        self.seen: list[list[int]] = []
        self.script: Callable[[NDArray[np.int64]], Exception | None] = lambda ids: None
        self.gate = asyncio.Event()
        self.gate.set()

    def check_accepts(self) -> None:
        if self.gives_up:
            raise NotReadyError("model", "none")

    def infer(self, message: Infer, payload: tuple[Any, ...], done: OnRun) -> None:
        def tell(run: asyncio.Task[tuple[Result, memoryview]]) -> None:
            error = run.exception()
            done(*(run.result() if error is None else (error, memoryview(b""))))  # type: ignore[arg-type]

        asyncio.ensure_future(self._answer(message, *payload)).add_done_callback(tell)

    async def _answer(self, message: Infer, *payload: Any) -> tuple[Result, memoryview]:
        ids = np.array(payload[0])
        shape = message.inputs[0].shape
        mask = np.array(payload[1]) if len(payload) == 2 else np.ones(shape)
        assert [each.name for each in message.inputs] == ["input_ids", "attention_mask"][: len(payload)]
        assert [each.shape for each in message.inputs] == [each.shape for each in payload]
        self.batches.append(shape)
        self.seen.append(sorted(int(row[0]) for row in ids))
        await self.gate.wait()
        error = self.script(ids)
        if error is not None:
            raise error
        lengths = np.broadcast_to(mask.sum(axis=1, keepdims=True), shape)
        logits = np.stack([ids, lengths, np.full(shape, shape[0])], axis=-1).astype(np.float32)
        tensors = [Tensor("logits", logits.shape)]
        return Result(message.id, tensors, 1.0), memoryview(logits.tobytes())


LIMITS = BatchLimits(rows=4, tokens=64, response=2**20, delay=0.0, waiting=100)


def make_batcher(worker: PlayedWorker, **limits: Any) -> Batcher:
    fields = {**vars(LIMITS), **limits}
    return Batcher(JOINER, worker, BatchLimits(**fields))


def make_request(length: int, first: int = 5, rows: int = 1, num_hashes: int | None = None) -> Request:
    ids = np.arange(first, first + length, dtype=np.int64)
    made = JOINER.check({"input_ids": np.tile(ids, (rows, 1))}, 64, num_hashes)
    return dataclasses.replace(made, row_bytes=4 * WIDTH * length)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def assert_own(request: Request, answered: Answered) -> None:
    logits = answered.outputs["logits"]
    assert logits.shape == (request.rows, request.length, WIDTH)
    ids = request.inputs["input_ids"]
    np.testing.assert_array_equal(logits[..., 0], ids)
    np.testing.assert_array_equal(logits[..., 1], np.full(ids.shape, request.length))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5), st.sampled_from([None, 1, 2])), max_size=20),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.001]),
)
def test_each_gets_its_own_answer_and_batches_keep_their_limits(
    kinds: list[tuple[int, int, int | None]], concurrency: int, delay: float
) -> None:
    async def work() -> None:
        worker = PlayedWorker(concurrency)
        batcher = make_batcher(worker, delay=delay)
        requests = [make_request(length, at, rows, n) for at, (length, rows, n) in enumerate(kinds)]
        answers = await asyncio.gather(*(batcher.submit(request) for request in requests))
        for request, answered in zip(requests, answers, strict=True):
            assert_own(request, answered)
        alone = {(request.rows, request.length) for request in requests}
        for shape in worker.batches:
            assert shape in alone or (shape[0] <= LIMITS.rows and shape[0] * shape[1] <= LIMITS.tokens)
        assert sum(rows for rows, _ in worker.batches) == sum(request.rows for request in requests)
        assert batcher.waiting == batcher.running == 0

    run(work())


def test_only_lengths_that_the_model_pads_alike_run_together() -> None:
    async def work() -> None:
        worker = PlayedWorker()
        batcher = make_batcher(worker)
        worker.gate.clear()
        first = asyncio.ensure_future(batcher.submit(make_request(1)))
        await asyncio.sleep(0)
        lengths = (3, 9, 8, 16, 17)
        rest = [asyncio.ensure_future(batcher.submit(make_request(length))) for length in lengths]
        await asyncio.sleep(0)
        worker.gate.set()
        await asyncio.gather(first, *rest)
        assert worker.batches == [(1, 1), (2, 8), (2, 16), (1, 17)]

    run(work())


def test_a_delay_waits_for_company_but_not_for_a_full_batch() -> None:
    async def work() -> None:
        worker = PlayedWorker(concurrency=4)
        batcher = make_batcher(worker, delay=5.0)
        answers = [asyncio.ensure_future(batcher.submit(make_request(4))) for _ in range(4)]
        await asyncio.wait_for(asyncio.gather(*answers), 2)
        assert worker.batches == [(4, 4)]
        batcher = make_batcher(worker, delay=0.02)
        await asyncio.gather(*(batcher.submit(make_request(4)) for _ in range(2)))
        assert worker.batches[1:] == [(2, 4)]

    run(work())


def test_a_full_queue_refuses_and_who_leaves_makes_room() -> None:
    async def work() -> None:
        worker = PlayedWorker()
        batcher = make_batcher(worker, waiting=2)
        worker.gate.clear()
        running = asyncio.ensure_future(batcher.submit(make_request(4)))
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(batcher.submit(make_request(20))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as refusal:
            await batcher.submit(make_request(20))
        assert int(refusal.value.headers["Retry-After"]) >= 1
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        waiting.append(asyncio.ensure_future(batcher.submit(make_request(20))))
        worker.gate.set()
        await asyncio.gather(running, *waiting[1:])
        assert worker.batches == [(1, 4), (2, 20)]
        assert batcher.waiting == 0

    run(work())


def test_only_what_kills_the_worker_twice_is_refused() -> None:
    """Those that died with it are sent again one at a time, so that the guilty one is found."""

    def kill(ids: NDArray[np.int64]) -> Exception | None:
        return WorkerDiedError() if (ids == 13).any() else None

    async def work() -> None:
        worker = PlayedWorker(concurrency=2)
        batcher = make_batcher(worker)
        worker.script = kill
        requests = [make_request(1, first) for first in (10, 11, 12, 13, 14, 15)]
        results = await asyncio.gather(
            *(batcher.submit(request) for request in requests), return_exceptions=True
        )
        guilty = results.pop(3)
        assert isinstance(guilty, NotReadyError)
        assert "2 times" in str(guilty)
        for request, answered in zip(requests[:3] + requests[4:], results, strict=True):
            assert isinstance(answered, Answered)
            assert_own(request, answered)
        assert [batch for batch in worker.seen if 13 in batch][-1] == [13]

    run(work())


def test_nothing_is_sent_to_a_worker_that_is_down_and_all_is_refused_when_it_stays_so() -> None:
    async def work() -> None:
        worker = PlayedWorker()
        batcher = make_batcher(worker)
        worker.is_up = False
        first = asyncio.ensure_future(batcher.submit(make_request(4)))
        await asyncio.sleep(0.01)
        assert not worker.batches
        worker.is_up = True
        for tell in worker.on_change:
            tell()
        assert_own(make_request(4), await first)
        worker.is_up = False
        second = asyncio.ensure_future(batcher.submit(make_request(4)))
        await asyncio.sleep(0)
        worker.gives_up = True
        for tell in worker.on_change:
            tell()
        with pytest.raises(NotReadyError):
            await second
        with pytest.raises(NotReadyError):
            await batcher.submit(make_request(4))
        await asyncio.sleep(0)
        assert batcher.waiting == 0

    run(work())


def test_an_error_of_one_is_not_the_others() -> None:
    def refuse(ids: NDArray[np.int64]) -> Exception | None:
        if (ids == 12).any():
            return ValueError("what nobody foresaw")
        return InputError("input_ids", "11") if (ids == 11).any() else None

    async def work() -> None:
        worker = PlayedWorker()
        batcher = make_batcher(worker)
        worker.script = refuse
        worker.gate.clear()
        answers = [
            asyncio.ensure_future(batcher.submit(make_request(1, first))) for first in (9, 10, 11, 12, 13)
        ]
        await asyncio.sleep(0)
        worker.gate.set()
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(result) for result in results] == [Answered, Answered, InputError, ValueError, Answered]

    run(work())
