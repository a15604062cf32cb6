"""Generations that step together in a thread of their own, and join and leave between steps."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, suppress
from typing import Final, Protocol

from reformer_export.errors import ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.generation_rows import GenerationRows, PassingRows, SteppingRows

MAX_WAITING: Final = 1024
"""Generations that may wait for a place."""


class Stream(Protocol):
    """A generation and whoever waits for it. The loop's thread calls all methods; after `fail`, or a `send`
    that says why it ended, none. One that raises has nobody who waits any more."""

    @property
    def generation(self) -> Generation:
        """What draws the tokens."""

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def send(self, token: int | None) -> None:
        """Tell the next token, None where the text ends; the generation's `stop_reason` says whether it was
        the last."""

    def fail(self, error: BaseException) -> None:
        """Tell that there is no more, and why."""

    def drop(self) -> None:
        """End what nobody waits for."""


class GenerationLoop:
    """Takes streams from any thread, and a token for each in every step."""

    def __init__(self, runtime: Runtime, max_streams: int) -> None:
        """At most `max_streams` step together; others wait."""
        self._runtime = runtime
        self._max_streams = max_streams
        self._waiting: deque[Stream] = deque()
        self._running: dict[Generation, tuple[Stream, GenerationRows]] = {}
        self._lanes: dict[int | None, GenerationRows] = {}
        self._states = ExitStack()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
        self._thread.start()

    def submit(self, stream: Stream) -> None:
        """Let a generation begin when there is a place; RuntimeUnavailableError when too many wait."""
        with self._changed:
            if self._is_closing or len(self._waiting) >= MAX_WAITING:
                got = "a server that ends" if self._is_closing else f"{len(self._waiting)} that wait"
                raise RuntimeUnavailableError("generation", got, "a free place", "ask again later")
            self._waiting.append(stream)
            self._changed.notify()

    def close(self) -> None:
        """End all that runs or waits, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._is_closing):
                    self._changed.wait()
                free = self._max_streams - len(self._running)
                joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            if self._is_closing:
                break
            for stream in joining:
                self._join(stream)
            self._step()
            if not self._running:
                self._release()
        error = RuntimeUnavailableError("generation", "a server that ends", "a running one", "ask again")
        for stream in [*joining, *self._waiting, *(stream for stream, _ in self._running.values())]:
            _end(stream, error)
        self._release()

    def _join(self, stream: Stream) -> None:
        generation = stream.generation
        try:
            if _is_gone(stream):
                _end(stream)
            elif generation.is_finished:  # a prompt as long as the model takes
                stream.send(None)
            else:
                rows = self._find_lane(generation)
                rows.join(generation)
                self._running[generation] = stream, rows
        except Exception as error:  # of one request: the others go on
            _end(stream, error)

    def _find_lane(self, generation: Generation) -> GenerationRows:
        """Where generations of as many hashes step."""
        rounds = generation.options.num_hashes if generation.has_cache else None
        if rounds not in self._lanes:
            if generation.has_cache:
                state = self._states.enter_context(self._runtime.start_decoding(rounds))
                self._lanes[rounds] = SteppingRows(state)
            else:
                self._lanes[rounds] = PassingRows()
        return self._lanes[rounds]

    def _step(self) -> None:
        for generation, (stream, rows) in list(self._running.items()):
            if _is_gone(stream):
                self._drop(generation, stream, rows)
        for rows in list(self._lanes.values()):
            try:
                for generation, token in rows.take(self._refuse):
                    self._send(generation, token)
                rows.advance()
            except Exception as error:  # a step of all failed: nobody in it can go on
                self._fail_lane(rows, error)

    def _send(self, generation: Generation, token: int | None) -> None:
        stream, rows = self._running[generation]
        try:
            stream.send(token)
        except Exception:  # nobody takes it
            self._drop(generation, stream, rows)
        else:
            if generation.stop_reason is not None:
                del self._running[generation]

    def _drop(self, generation: Generation, stream: Stream, rows: GenerationRows) -> None:
        rows.leave(generation)
        del self._running[generation]
        _end(stream)

    def _refuse(self, generation: Generation, error: ReformerExportError) -> None:
        stream, _ = self._running.pop(generation)
        _end(stream, error)

    def _fail_lane(self, rows: GenerationRows, error: Exception) -> None:
        for generation, (stream, where) in list(self._running.items()):
            if where is rows:
                del self._running[generation]
                _end(stream, error)
        self._lanes = {rounds: lane for rounds, lane in self._lanes.items() if lane is not rows}

    def _release(self) -> None:
        """Give the caches back."""
        self._lanes.clear()
        self._states.close()
        self._running.clear()


def _is_gone(stream: Stream) -> bool:
    try:
        return stream.is_cancelled()
    except Exception:
        return True


def _end(stream: Stream, error: BaseException | None = None) -> None:
    """Tell the `error`, or nothing: nobody may be there to hear it."""
    with suppress(Exception):
        stream.drop() if error is None else stream.fail(error)
