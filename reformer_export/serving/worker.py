"""One model's worker, as the front process sees it: started, asked, noticed when it dies, started again."""

from __future__ import annotations

import asyncio
import collections
import functools
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from reformer_export.errors import ReformerExportError, RuntimeUnavailableError
from reformer_export.serving.messages import (
    Answer,
    Begun,
    Cancel,
    Failed,
    Failure,
    Generate,
    Infer,
    Piece,
    Pieces,
    Ready,
    Result,
    Start,
    ToFront,
    error_from_parts,
)
from reformer_export.serving.refusals import NotReadyError
from reformer_export.serving.worker_start import RunningProcess, describe_death, start_process

MAX_DEATHS: Final = 3
"""So many within `DEATHS_SECONDS`, and the model is not ready until its worker has come up again."""
DEATHS_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.1
"""Seconds before a worker that died is started again; doubled each time, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE: Final = 30.0
CLOSING_SECONDS: Final = 1.0

Say = Callable[..., None]


class WorkerDiedError(Exception):
    """The worker ended before it answered."""


Sink = Callable[[Answer | None, memoryview], None]
"""Takes an answer and its payload; None where the worker has died."""
OnRun = Callable[[Result | Exception, memoryview], None]
"""Takes a run's result and the bytes of its outputs, or the request's error, or WorkerDiedError."""
_NOTHING: Final = memoryview(b"")


class Worker:
    """The worker of one artifact.

    Attributes:
        facts: what it said when it was last ready.
        pid: of its process; None while there is none.
        is_up: whether it can be asked now.
        restarts: how often it was started again.
        problem: why the model is not ready; None when it is.
        gives_up: whether that may last; requests are refused then.
        generations: those that go on or wait, whatever becomes of the worker.
        retrying: held by a generation that may have ended a worker, while the next one tries it.
        on_change: called when it can be asked again, and when its starts are given up for now.
    """

    def __init__(self, start: Start, max_payload: int, say: Say) -> None:
        """`say(event, **fields)` writes a line into the log."""
        self._start = start
        self._max_payload = max_payload
        self._say = say
        self._process: RunningProcess | None = None
        self._calls: dict[int, Sink] = {}
        self.generations: set[object] = set()
        self.retrying = asyncio.Lock()
        self._next_id = 0
        self.is_up = False
        self._started: asyncio.Future[Ready] | None = None
        self._deaths: collections.deque[float] = collections.deque(maxlen=MAX_DEATHS)
        self._restarting: asyncio.Task[None] | None = None
        self._is_closing = False
        self.facts: Ready | None = None
        self.restarts = 0
        self.problem: str | None = "its worker is starting"
        self.gives_up = False
        self.on_change: list[Callable[[], None]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._number = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def concurrency(self) -> int:
        """Runs at once."""
        return 1 if self.facts is None else self.facts.concurrency

    @property
    def capacity(self) -> int:
        """Runs that it takes: on the CPU one more than go on at once, to begin as soon as one of them ends.
        On a GPU that one would rather wait for company."""
        return self.concurrency + (self.facts is not None and not self.facts.on_gpu)

    async def start(self) -> Ready:
        """Start it the first time; raises what the worker found at fault."""
        try:
            return await self._launch()
        except WorkerDiedError as error:
            assert self._process is not None
            reason = describe_death(await self._process.end(CLOSING_SECONDS), None)
            got = f"a worker that {reason} while it opened it"
            fix = "see what it said above"
            raise RuntimeUnavailableError(self._start.path, got, "one that runs", fix) from error

    def check_accepts(self) -> None:
        """NotReadyError where a request would wait for a worker that keeps dying, or cannot start."""
        if self.gives_up:
            fix = "try again later, or see the server's log"
            raise NotReadyError("model", f"one that does not run: {self.problem}", "a model that runs", fix)

    def infer(self, message: Infer, payload: tuple[Any, ...], done: OnRun) -> None:
        """One pass; `done` is told of its end, later. Raises WorkerDiedError where it cannot begin."""
        place = None if self._process is None else self._process.memory.take()
        room: Any = b"" if place is None else place[1]

        def take(answer: Answer | None, values: memoryview) -> None:
            """Keeps the room, into which the worker may write until it has answered, whoever still waits."""
            if isinstance(answer, Result):
                done(answer, memoryview(room)[: answer.shared] if answer.shared else values)
            elif isinstance(answer, Failure):
                done(error_from_parts(answer.kind, answer.parts), _NOTHING)
            else:
                done(WorkerDiedError(), _NOTHING)

        self._send(message, payload, take, at=0 if place is None else place[0], room=len(room))

    def generate(self, message: Generate, payload: bytes, sink: Callable[[Any], None]) -> int:
        """Begin a generation, whose answers `sink` takes, None where the worker dies; its id.
        WorkerDiedError where the worker is not up."""
        return self._send(message, (payload,), lambda answer, _: sink(answer))

    async def wait_until_up(self) -> None:
        """Until it can be asked; NotReadyError where that may take long."""
        while not self.is_up:
            self.check_accepts()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def cancel(self, request_id: int) -> None:
        """Forget a request, and let the worker do so."""
        if self._calls.pop(request_id, None) is not None and self._process is not None:
            self._process.connection.send(Cancel(request_id))

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._is_closing = True
        if self._restarting is not None:
            self._restarting.cancel()
        if self._process is not None:
            self._process.connection.close()
            await self._process.end(CLOSING_SECONDS)

    def _send(self, message: Infer | Generate, payload: tuple[Any, ...], sink: Sink, **fields: Any) -> int:
        """Send the message with `fields` and an id of its own, which is returned."""
        if self._process is None or not self.is_up:
            raise WorkerDiedError
        self._next_id += 1
        whole = msgspec.structs.replace(message, id=self._next_id, **fields)
        self._process.connection.send(whole, *payload)
        self._calls[self._next_id] = sink
        return self._next_id

    async def _launch(self) -> Ready:
        self._started = asyncio.get_running_loop().create_future()
        self._number += 1
        lost = functools.partial(self._on_lost, self._number)
        self._process = await start_process(self._on_message, lost, self._max_payload)
        self._process.connection.send(self._start)
        self.facts = await self._started
        self.problem, self.gives_up, self.is_up = None, False, True
        self._tell_change()
        return self.facts

    def _give_up(self, problem: str) -> None:
        self.problem, self.gives_up = problem, True
        self._tell_change()

    def _tell_change(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for each in self.on_change:
            each()

    def _on_message(self, message: ToFront, payload: memoryview) -> None:
        if isinstance(message, Ready | Failed):
            assert self._started is not None
            if self._started.done():
                return
            if isinstance(message, Ready):
                self._started.set_result(message)
            else:
                self._started.set_exception(error_from_parts(message.kind, message.parts))
            return
        for answer in message.pieces if isinstance(message, Pieces) else (message,):
            self._deliver(answer, payload)

    def _deliver(self, answer: Answer, payload: memoryview) -> None:
        sink = self._calls.get(answer.id)
        if sink is None:
            return
        is_last = answer.reason is not None if isinstance(answer, Piece) else not isinstance(answer, Begun)
        if is_last:
            del self._calls[answer.id]
        sink(answer, payload)

    def _on_lost(self, number: int, error: Exception | None) -> None:
        """The process is gone, or will be: everything that was in it is told, and another started."""
        if number != self._number:
            return
        was_up, self.is_up = self.is_up, False
        calls, self._calls = self._calls, {}
        for sink in calls.values():
            sink(None, _NOTHING)
        if self._started is not None and not self._started.done():
            self._started.set_exception(WorkerDiedError())
        if was_up and not self._is_closing:
            self._restarting = asyncio.get_running_loop().create_task(self._restart(error, len(calls)))

    async def _restart(self, error: Exception | None, requests: int) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._bury(error, requests)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.restarts += 1
            try:
                facts = await self._launch()
            except WorkerDiedError:
                error, requests = None, 0
                continue
            except (ReformerExportError, OSError) as refusal:  # such as another artifact in the folder
                self._give_up(str(refusal))
                self._say("worker_refused", problem=self.problem)
                error, requests = refusal, 0
                continue
            self._say("worker_ready", pid=self.pid, restarts=self.restarts, runs_on=facts.description)
            return

    async def _bury(self, error: Exception | None, requests: int) -> None:
        """Wait for the process's end and say how it came."""
        assert self._process is not None
        status = await self._process.end(0.0 if error is not None else CLOSING_SECONDS)
        if isinstance(error, ReformerExportError | OSError):
            return
        self._deaths.append(time.monotonic())
        reason = describe_death(status, error)
        recent = sum(time.monotonic() - each < DEATHS_SECONDS for each in self._deaths)
        if recent >= MAX_DEATHS:
            self._give_up(f"its worker {reason}, as {recent} did within {DEATHS_SECONDS:.0f} s")
        elif not self.gives_up:
            self.problem = f"its worker {reason} and is started again"
        self._say("worker_died", reason=reason, requests=requests, pid=self.pid)
