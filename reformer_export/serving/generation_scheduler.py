"""Generations side by side: they step together, join and leave between steps, and share a memory."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import traceback
from typing import Final

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.serving.generation_group import GenerationGroup, Send
from reformer_export.serving.generation_stream import GenerationStream

EXIT_BROKEN: Final = 70
"""Of a process that cannot go on; the server starts another."""

PROMPT_TOKENS: Final = 256
"""Of prompts that are read between two steps: running streams wait for no more than these, or one prompt."""

Lane = dict[tuple[bool, int | None], GenerationGroup]
"""What one thread steps: a group of each kind of streams."""


class GenerationScheduler:
    """Continues prompts; methods return at once, what comes of them goes through `send`.

    Streams are divided among lanes, a thread each, the emptiest first. Between two steps of a lane, prompts
    join it that have `PROMPT_TOKENS` together, or one longer one. Prompts wait in their order, for one of
    `max_streams` places and until caches of `max_cache` bytes have room for all of the text that they may
    become: a stream that runs never wants memory. At most `max_waiting` wait; None where others bound that.

    Attributes:
        lanes: none before the first prompt.
    """

    def __init__(
        self,
        model: Runtime,
        send: Send,
        *,
        lanes: int,
        max_streams: int,
        max_cache: int,
        max_waiting: int | None = None,
    ) -> None:
        self._model = model
        self._send = send
        self._probes: Lane = {}
        self._max_streams = max_streams
        self._max_cache = max_cache
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: collections.deque[GenerationStream] = collections.deque()
        self._is_closing = False
        self.lanes: list[Lane] = []
        self._number_of_lanes = lanes
        self._threads: list[threading.Thread] = []

    def submit(self, stream: GenerationStream) -> None:
        """Let a stream wait for its turn, or raise why it cannot; one thread calls this."""
        self._check_memory(stream)
        if stream.generation.is_finished:  # the prompt is as long as a sequence may be
            piece = stream.read(None)
            self._send([] if piece is None else [piece])
            return
        with self._changed:
            waiting = len(self._waiting)
            if self._is_closing or (self._max_waiting is not None and waiting >= self._max_waiting):
                got = "a server that ends" if self._is_closing else f"{waiting} that wait"
                raise RuntimeUnavailableError("generation", got, "a free place", "ask again later")
            if not self.lanes:
                self._start_lanes()
            self._waiting.append(stream)
            self._changed.notify_all()

    def forget(self, stream: GenerationStream) -> None:
        """Let a stream that was cancelled wait no longer; one that runs leaves at its next step."""
        with self._changed, contextlib.suppress(ValueError):
            self._waiting.remove(stream)
            self._changed.notify_all()

    def close(self) -> None:
        """End all that runs, after its step, or waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        error = RuntimeUnavailableError("generation", "a server that ends", "a running one", "ask again")
        groups = [group for lane in self.lanes for group in lane.values()]
        for stream in [*self._waiting, *(each for group in groups for each in group.streams.values())]:
            stream.end(error)
        for group in groups:
            group.release()

    def _check_memory(self, stream: GenerationStream) -> None:
        """InputError unless the caches have room for the stream alone."""
        needed = self._find_group(self._probes, stream).foresee_nbytes(stream)
        if needed > self._max_cache:
            got = f"prompt and text of up to {stream.most_tokens} tokens, whose caches take {needed} bytes"
            fix = "ask for fewer tokens, or start the server with a greater `max_cache`"
            raise InputError("max_tokens", got, f"at most {self._max_cache} bytes", fix)

    def _find_group(self, lane: Lane, stream: GenerationStream) -> GenerationGroup:
        if stream.kind not in lane:
            lane[stream.kind] = GenerationGroup(self._model, stream.kind, self._send)
        return lane[stream.kind]

    def _start_lanes(self) -> None:
        self.lanes += [{} for _ in range(self._number_of_lanes)]
        for index, lane in enumerate(self.lanes):
            name = f"generation-{index}"
            thread = threading.Thread(target=self._run, args=(lane,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, lane: Lane) -> None:
        try:
            while not self._is_closing:
                self._let_join(lane)
                for group in list(lane.values()):
                    if group.streams:
                        self._take_out(group, group.step())
        except BaseException as error:
            if not isinstance(error, ConnectionError):  # the front has gone
                traceback.print_exc()
            os._exit(EXIT_BROKEN)  # without this thread, streams would wait for ever

    def _let_join(self, lane: Lane) -> None:
        """Give the lane what waits and has room; wait while it has nothing to do."""
        prompt_tokens = 0
        while (stream := self._choose_next(lane, prompt_tokens)) is not None:
            group = self._find_group(lane, stream)
            if group.join(stream):
                prompt_tokens += len(stream.generation.prompt_ids)
            else:
                self._take_out(group, [stream])

    def _choose_next(self, lane: Lane, prompt_tokens: int) -> GenerationStream | None:
        """The next stream for the lane, behind prompts of so many tokens; None where it shall step."""
        with self._changed:
            while not self._is_closing:
                if self._waiting and self._has_room(lane, self._waiting[0], prompt_tokens):
                    stream = self._waiting.popleft()
                    group = self._find_group(lane, stream)
                    group.nbytes = group.foresee_nbytes(stream)
                    group.streams[stream.generation] = stream
                    return stream
                if _count_streams(lane):
                    return None
                self._changed.wait()
        return None

    def _has_room(self, lane: Lane, stream: GenerationStream, prompt_tokens: int) -> bool:
        """Whether the stream may join now; caches that nobody uses are given back where that helps."""
        if prompt_tokens and prompt_tokens + len(stream.generation.prompt_ids) > PROMPT_TOKENS:
            return False
        if _count_streams(lane) > min(map(_count_streams, self.lanes)):
            return False
        if sum(map(_count_streams, self.lanes)) >= self._max_streams:
            return False
        group = self._find_group(lane, stream)
        groups = [each for other in self.lanes for each in other.values()]
        if self._foresee_total(groups, group, stream) > self._max_cache:
            for each in groups:
                if not each.streams:
                    each.release()
        return self._foresee_total(groups, group, stream) <= self._max_cache

    @staticmethod
    def _foresee_total(
        groups: list[GenerationGroup], group: GenerationGroup, stream: GenerationStream
    ) -> int:
        others = sum(other.nbytes for other in groups if other is not group)
        return others + group.foresee_nbytes(stream)

    def _take_out(self, group: GenerationGroup, streams: list[GenerationStream]) -> None:
        if not streams:
            return
        with self._changed:
            for stream in streams:
                del group.streams[stream.generation]
            self._changed.notify_all()


def _count_streams(lane: Lane) -> int:
    return sum(len(group.streams) for group in lane.values())
