"""Generation in a worker: sequences that step together, join and leave between steps."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.cache_choice import choose_cache
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.generation import GenerationOptions
from reformer_export.serving.failures import failure_from_error
from reformer_export.serving.generation_lane import GenerationLane
from reformer_export.serving.generation_stream import GenerationStream
from reformer_export.serving.messages import Generate, Piece, Pieces

EXIT_BROKEN: Final = 70
"""Of a worker that cannot go on; the front starts another."""

PROMPT_TOKENS: Final = 256
"""Of prompts that are read between two steps: running streams wait for no more than these, or one prompt."""


class GenerationScheduler:
    """Continues prompts; methods return at once, answers go through `send`.

    Streams are divided among lanes, a thread with a decoding state each, the emptiest first. Between two
    steps of a lane, prompts join it that have `PROMPT_TOKENS` together, or one longer one. Prompts wait in
    their order, for one of `max_streams` places and until caches of `max_cache` bytes have room for all of
    the text that they may become: a stream that runs never wants memory.

    Attributes:
        lanes: none before the first prompt.
    """

    def __init__(
        self, model: Runtime, send: Callable[..., Any], *, lanes: int, max_streams: int, max_cache: int
    ) -> None:
        self._model = model
        self._send = send
        self._probe: DecodingState | None = None
        self._max_streams = max_streams
        self._max_cache = max_cache
        self._changed = threading.Condition()
        self._waiting: collections.deque[GenerationStream] = collections.deque()
        self._streams: dict[int, GenerationStream] = {}
        self._is_closing = False
        self.lanes: list[GenerationLane] = []
        self._number_of_lanes = lanes
        self._threads: list[threading.Thread] = []

    def submit(self, message: Generate, payload: bytes | bytearray) -> None:
        """Let a prompt wait for its turn: text in UTF-8, or token ids, int64."""
        try:
            stream = GenerationStream(self._model, message, message.read_prompt(payload))
            self._check_memory(stream)
        except Exception as error:  # one request's failure is not the worker's
            self._send(failure_from_error(message.id, error))
            return
        self._send(stream.begun)
        if stream.generation.is_finished:  # the prompt is as long as a sequence may be
            self._send(Pieces([Piece(stream.id, [], "", stream.generation.stop_reason)]))
            return
        with self._changed:
            if not self.lanes:
                self._start_lanes()
            self._streams[stream.id] = stream
            self._waiting.append(stream)
            self._changed.notify_all()

    def cancel(self, request_id: int) -> None:
        """Stop a generation at the next step, or forget one that waits."""
        with self._changed:
            stream = self._streams.get(request_id)
            if stream is None:
                return
            stream.is_cancelled = True
            with contextlib.suppress(ValueError):
                self._waiting.remove(stream)
                del self._streams[request_id]
                self._changed.notify_all()

    def close(self) -> None:
        """Let the lanes end after their steps, whatever runs or waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _check_memory(self, stream: GenerationStream) -> None:
        """InputError unless the caches have room for the stream alone."""
        if not stream.generation.has_cache:
            return
        if self._probe is None:
            self._probe = self._model.start_decoding()
        needed = self._probe.foresee_nbytes(1, stream.most_tokens)
        if needed > self._max_cache:
            got = f"prompt and text of up to {stream.most_tokens} tokens, whose caches take {needed} bytes"
            fix = "ask for fewer tokens, or start the server with a greater `max_cache`"
            raise InputError("max_tokens", got, f"at most {self._max_cache} bytes", fix)

    def _start_lanes(self) -> None:
        has_cache = choose_cache(self._model, GenerationOptions())
        for index in range(self._number_of_lanes if has_cache else 1):
            lane = GenerationLane(self._model, has_cache=has_cache, send=self._send)
            self.lanes.append(lane)
            name = f"generation-{index}"
            thread = threading.Thread(target=self._run, args=(lane,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, lane: GenerationLane) -> None:
        try:
            while not self._is_closing:
                self._let_join(lane)
                self._forget(lane, lane.step())
            lane.release()
        except BaseException as error:
            if not isinstance(error, ConnectionError):  # the front has gone
                traceback.print_exc()
            os._exit(EXIT_BROKEN)  # without this thread, streams would wait for ever

    def _let_join(self, lane: GenerationLane) -> None:
        """Give the lane what waits and has room; wait while it has nothing to do."""
        prompt_tokens = 0
        while (stream := self._choose_next(lane, prompt_tokens)) is not None:
            if not lane.join(stream):
                self._forget(lane, [stream])
            prompt_tokens += len(stream.generation.prompt_ids)

    def _choose_next(self, lane: GenerationLane, prompt_tokens: int) -> GenerationStream | None:
        """The next stream for the lane, behind prompts of so many tokens; None where it shall step."""
        with self._changed:
            while True:
                if (
                    self._waiting
                    and not self._is_closing
                    and self._has_room(lane, self._waiting[0], prompt_tokens)
                ):
                    stream = self._waiting.popleft()
                    lane.nbytes = lane.foresee_nbytes(stream)
                    lane.streams[stream.generation] = stream
                    return stream
                if lane.streams or self._is_closing:
                    return None
                prompt_tokens = 0
                self._changed.wait()

    def _has_room(self, lane: GenerationLane, stream: GenerationStream, prompt_tokens: int) -> bool:
        """Whether the stream may join now; caches that nobody uses are given back where that helps."""
        if prompt_tokens and prompt_tokens + len(stream.generation.prompt_ids) > PROMPT_TOKENS:
            return False
        if len(lane.streams) > min(len(other.streams) for other in self.lanes):
            return False
        if sum(len(each.streams) for each in self.lanes) >= self._max_streams:
            return False
        if self._foresee_total(lane, stream) > self._max_cache:
            for other in self.lanes:
                if not other.streams:
                    other.release()
        return self._foresee_total(lane, stream) <= self._max_cache

    def _foresee_total(self, lane: GenerationLane, stream: GenerationStream) -> int:
        others = sum(other.nbytes for other in self.lanes if other is not lane)
        return others + lane.foresee_nbytes(stream)

    def _forget(self, lane: GenerationLane, streams: list[GenerationStream]) -> None:
        if not streams:
            return
        with self._changed:
            for stream in streams:
                del lane.streams[stream.generation]
                self._streams.pop(stream.id, None)
            self._changed.notify_all()
