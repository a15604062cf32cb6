"""Requests of one model wait here and go to its worker together where that changes no answer.

Which these are is said in joining.py. A run goes to the worker as soon as that takes it (after `max_delay`,
where that is wished); what comes meanwhile waits, and joins. The oldest request is in the next batch, always.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from reformer_export.serving.joining import Joiner, Request
from reformer_export.serving.messages import Infer, Result, arrays_from_payload, describe_arrays
from reformer_export.serving.refusals import NotReadyError, QueueFullError
from reformer_export.serving.worker import OnRun, WorkerDiedError

MAX_DEATHS_OF_A_REQUEST: Final = 2
"""Workers that a request may take with it, or be taken by; then it is refused."""


@dataclass(frozen=True)
class BatchLimits:
    """Of a batch: `rows`, `tokens` (with padding) and `response` bytes of its outputs; `delay`: seconds that
    a request waits for company; `waiting`: requests that wait."""

    rows: int
    tokens: int
    response: int
    delay: float
    waiting: int


@dataclass(frozen=True)
class Answered:
    """`outputs` by name, rows first, without padding, floats as float32; milliseconds of waiting and running;
    `rows` of the batch."""

    outputs: dict[str, NDArray[Any]]
    queue_ms: float
    run_ms: float
    rows: int


class Runs(Protocol):
    """What of a worker is needed here."""

    is_up: bool
    on_change: list[Callable[[], None]]

    @property
    def concurrency(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    def check_accepts(self) -> None: ...

    def infer(self, message: Infer, payload: tuple[Any, ...], done: OnRun) -> None: ...


@dataclass(eq=False)
class _Waiting:
    request: Request
    answer: asyncio.Future[Answered]
    arrived: float = field(default_factory=time.perf_counter)
    deaths: int = 0


_Group = Hashable


class Batcher:
    """The queue of one model.

    Attributes:
        waiting: requests in the queue.
        running: batches in the worker.
    """

    def __init__(self, joiner: Joiner, worker: Runs, limits: BatchLimits) -> None:
        self._joiner = joiner
        self._worker = worker
        self._limits = limits
        self._groups: dict[_Group, collections.deque[_Waiting]] = {}
        self._again: collections.deque[_Waiting] = collections.deque()
        self._is_alone = False
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_a_request = 0.05
        self.waiting = 0
        self.running = 0
        worker.on_change.append(self._look)

    def submit(self, request: Request) -> asyncio.Future[Answered]:
        """The request's answer to come; cancelling it takes the request out of the queue.

        It fails with NotReadyError where the worker died twice on this request, or is given up, and with what
        the worker found at fault.

        Raises:
            QueueFullError: too many wait.
            NotReadyError: the worker does not run.
        """
        self._worker.check_accepts()
        if self.waiting >= self._limits.waiting:
            seconds = self.waiting * self._seconds_a_request / self._worker.concurrency
            got, expected = f"{self.waiting} requests that wait", f"fewer than {self._limits.waiting}"
            raise QueueFullError("queue", got, expected, "try again later", retry_after=seconds)
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._groups.setdefault(self._group_of(waiting), collections.deque()).append(waiting)
        self.waiting += 1
        waiting.answer.add_done_callback(lambda _: self._forget(waiting))
        self._dispatch()
        return waiting.answer

    def _group_of(self, waiting: _Waiting) -> _Group:
        """A request without company is a group of its own."""
        return waiting if waiting.request.company is None else waiting.request.company

    def _forget(self, waiting: _Waiting) -> None:
        """Take out of the queue what left before its turn."""
        if not waiting.answer.cancelled() and waiting.answer.exception() is None:
            return  # it has had its turn
        group = self._group_of(waiting)
        for queue in (self._groups.get(group), self._again):
            if queue is not None and waiting in queue:
                queue.remove(waiting)
                self.waiting -= 1
        if not self._groups.get(group, True):
            del self._groups[group]

    def _look(self) -> None:
        """The worker is up again, or given up: go on, or refuse all that wait."""
        try:
            self._worker.check_accepts()
        except NotReadyError as error:
            for waiting in [*self._again, *(each for queue in self._groups.values() for each in queue)]:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        self._dispatch()

    def _dispatch(self) -> None:
        """Give the worker as many runs as it takes."""
        while self._worker.is_up and not self._is_alone and self.running < self._worker.capacity:
            if self._again:
                # What was in a worker that died, one at a time: only what kills the next one is refused.
                if self.running:
                    return
                self._is_alone = True
                batch = [self._again.popleft()]
            else:
                batch = self._choose_batch()
            if not batch:
                return
            self.waiting -= len(batch)
            self.running += 1
            self._begin(batch)

    def _begin(self, batch: list[_Waiting]) -> None:
        def done(result: Result | Exception, values: memoryview) -> None:
            self._finish(batch, result, values)

        try:
            inputs = self._joiner.join([each.request for each in batch])
            message = Infer(0, describe_arrays(inputs), batch[0].request.num_hashes)
            self._worker.infer(message, tuple(inputs.values()), done)
        except Exception as error:  # whatever it is, nobody waits for ever
            asyncio.get_running_loop().call_soon(done, error, memoryview(b""))

    def _finish(self, batch: list[_Waiting], result: Result | Exception, values: memoryview) -> None:
        if isinstance(result, WorkerDiedError):
            for each in reversed(batch):
                self._try_again(each)
        elif isinstance(result, Exception):
            self._fail(batch, result)
        else:
            try:
                outputs = arrays_from_payload(values, result.outputs)
                self._give(batch, outputs, result.run_ms)
            except Exception as error:  # whatever it is, nobody waits for ever
                self._fail(batch, error)
        self.running -= 1
        self._is_alone = False
        self._dispatch()

    def _choose_batch(self) -> list[_Waiting]:
        """The oldest request and those that may run with it; nothing while all may still get company."""
        for group in sorted(self._groups, key=lambda group: self._groups[group][0].arrived):
            queue = self._groups[group]
            batch = list(self._fitting(queue))
            wait = queue[0].arrived + self._limits.delay - time.perf_counter()
            if wait > 0 and len(batch) == len(queue) and not self._is_full(batch):
                self._look_after(wait)
                continue
            for each in batch:
                queue.remove(each)
            if not queue:
                del self._groups[group]
            return batch
        return []

    def _fitting(self, queue: Sequence[_Waiting]) -> Iterator[_Waiting]:
        rows = longest = size = 0
        for waiting in queue:
            request = waiting.request
            more_rows, length = rows + request.rows, max(longest, request.length)
            more_bytes = size + request.rows * request.row_bytes
            fits = more_rows <= self._limits.rows and more_rows * length <= self._limits.tokens
            if rows == 0 or (fits and more_bytes <= self._limits.response):
                rows, longest, size = more_rows, length, more_bytes
                yield waiting

    def _is_full(self, batch: Sequence[_Waiting]) -> bool:
        rows = sum(waiting.request.rows for waiting in batch)
        longest = max(waiting.request.length for waiting in batch)
        return rows >= self._limits.rows or (rows + 1) * longest > self._limits.tokens

    def _look_after(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._dispatch()

    def _try_again(self, waiting: _Waiting) -> None:
        waiting.deaths += 1
        if waiting.answer.done():
            return
        if waiting.deaths >= MAX_DEATHS_OF_A_REQUEST:
            got = f"the worker's death, {waiting.deaths} times"
            fix = "see the server's log; other requests are answered"
            waiting.answer.set_exception(NotReadyError("this request", got, "an answer", fix))
            return
        self._again.appendleft(waiting)
        self.waiting += 1

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        """The fault of one request, or too large a batch: others are run again, alone."""
        for each in reversed(batch):
            if each.answer.done():
                continue
            if len(batch) == 1:
                each.answer.set_exception(error)
            else:
                self._again.appendleft(each)
                self.waiting += 1

    def _give(self, batch: list[_Waiting], outputs: dict[str, NDArray[Any]], run_ms: float) -> None:
        self._seconds_a_request += (run_ms / 1e3 / len(batch) - self._seconds_a_request) / 16
        requests = [each.request for each in batch]
        rows, now = sum(request.rows for request in requests), time.perf_counter()
        for each, own in zip(batch, self._joiner.split(requests, outputs), strict=True):
            if not each.answer.done():
                waited_ms = 1e3 * (now - each.arrived) - run_ms
                each.answer.set_result(Answered(own, waited_ms, run_ms, rows))
