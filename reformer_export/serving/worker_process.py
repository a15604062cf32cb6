"""The process that holds one artifact open: `python -m reformer_export.serving.worker_process SOCKET MEMORY`.

One session, which `concurrency` threads call at once: on the CPU with one thread each, which answers more
requests a second than one run at a time with all cores, and holds the weights once. What it is asked comes
over the socket (messages.py), outputs go into the memory (shared_memory.py), both named by their descriptors;
it ends when the socket closes, and on no signal of a terminal or an init system, which the front process
answers for both.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final

import numpy as np

from reformer_export.errors import ArtifactError, InputError, ReformerExportError
from reformer_export.runtimes import LeftPaddingWarning, Runtime, RuntimeOptions, load
from reformer_export.runtimes.named_inputs import count_values, example_inputs, least_sizes
from reformer_export.serving.channel import Channel
from reformer_export.serving.failures import failure_from_error
from reformer_export.serving.generation_scheduler import EXIT_BROKEN
from reformer_export.serving.generation_worker import GenerationWorker
from reformer_export.serving.messages import (
    BrokenFrameError,
    Cancel,
    Failed,
    Generate,
    Infer,
    Ready,
    Result,
    Start,
    arrays_from_payload,
    count_bytes,
    describe_arrays,
)
from reformer_export.serving.refusals import TooLargeError, parts_from_error
from reformer_export.serving.shared_memory import map_memory, write_outputs

MAX_FIRST_VALUES: Final = 2**22
"""Of the inputs of a run before the first request, which is left out where they are more."""


def main() -> None:
    """Serve the socket, the first argument's descriptor, until it closes; the second is the memory's."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    memory = map_memory(int(sys.argv[2]))
    _end_with(functools.partial(_serve, channel, memory))


def _end_with(serve: Callable[[], None]) -> None:
    """End the process when `serve` ends: threads may be in a run, whose answer nobody waits for."""
    try:
        with contextlib.suppress(OSError, BrokenFrameError):  # the front has gone
            serve()
    except BaseException:
        traceback.print_exc()
        os._exit(EXIT_BROKEN)  # without this thread, requests would wait for ever
    os._exit(0)


def _serve(channel: Channel, memory: mmap) -> None:
    got = channel.receive()
    if got is None or not isinstance(got[0], Start):
        return
    start = got[0]
    try:
        model = _open_model(start)
    except ReformerExportError as error:
        channel.send(Failed(type(error).__name__, parts_from_error(error)))
        return
    ready = _describe(model, start)
    warnings.simplefilter("ignore", LeftPaddingWarning)
    generations = GenerationWorker(
        model,
        channel.send,
        lanes=ready.concurrency if ready.decodes and not ready.on_gpu else 1,
        max_streams=start.max_streams,
        max_cache=start.max_cache,
    )
    desk = _Desk(model, channel, memory, generations, start.max_response, ready.concurrency)
    channel.send(ready)
    for _ in range(ready.concurrency):
        threading.Thread(target=_end_with, args=(desk.serve,), daemon=True).start()
    desk.serve()


_Run = tuple[Infer, bytearray]


@dataclass
class _Desk:
    """Where requests are received, by one thread at a time. The one that received a run does it, and another
    receives on: there is one thread more than the `concurrency` runs that go on at once. A run beyond them
    lies here until one has ended, whose thread does it then: no core waits for the front process."""

    model: Runtime
    channel: Channel
    memory: mmap
    generations: GenerationWorker
    max_response: int
    concurrency: int
    turn: threading.Lock = field(default_factory=threading.Lock)
    running: int = 0
    next_runs: collections.deque[_Run] = field(default_factory=collections.deque)
    counting: threading.Lock = field(default_factory=threading.Lock)

    def serve(self) -> None:
        """Answer until the front has gone."""
        while (run := self._receive_run()) is not None:
            while run is not None:
                self._answer(*run)
                run = self._take_next()

    def _receive_run(self) -> _Run | None:
        with self.turn:
            while (got := self.channel.receive()) is not None:
                message, payload = got
                if isinstance(message, Infer):
                    if self._may_begin(message, payload):
                        return message, payload
                elif isinstance(message, Generate):
                    self.generations.submit(message, payload)
                elif isinstance(message, Cancel):
                    self.generations.cancel(message.id)
        return None

    def _may_begin(self, message: Infer, payload: bytearray) -> bool:
        with self.counting:
            if self.running < self.concurrency:
                self.running += 1
                return True
            self.next_runs.append((message, payload))
            return False

    def _take_next(self) -> _Run | None:
        """In place of a run that has ended; None where nothing lies here."""
        with self.counting:
            if self.next_runs:
                return self.next_runs.popleft()
            self.running -= 1
            return None

    def _answer(self, message: Infer, payload: bytearray) -> None:
        try:
            begun = time.perf_counter()
            inputs = arrays_from_payload(payload, message.inputs)
            outputs = self.model.run(inputs, num_hashes=message.num_hashes)
            run_ms = 1e3 * (time.perf_counter() - begun)
            tensors = describe_arrays(outputs)
            size = count_bytes(tensors)
            _check_size(size, self.max_response)
        except Exception as error:  # one request's failure is not the worker's
            self.channel.send(failure_from_error(message.id, error))
            return
        if size <= message.room:
            write_outputs(self.memory, message.at, outputs)
            self.channel.send(Result(message.id, tensors, run_ms, size))
        else:
            arrays = (np.asarray(value, order="C") for value in outputs.values())
            self.channel.send(Result(message.id, tensors, run_ms), *arrays)


def _open_model(start: Start) -> Runtime:
    """The artifact, ready for its first request; ArtifactError where it is not the one that was served."""
    options = RuntimeOptions(**start.runtime)
    if not options.is_engine and options.threads is None:
        options = dataclasses.replace(options, threads=1)
    model = load(start.path, options)
    if model.manifest.files != start.files:
        fix = "start the server again to serve the new one"
        raise ArtifactError(start.path, "another artifact than was served", "the same one", fix)
    try:
        sizes = least_sizes(model.manifest)
        if count_values(model.manifest, sizes) <= MAX_FIRST_VALUES:
            model.run(example_inputs(model.manifest, sizes))
    except ReformerExportError as error:
        # An engine's profiles may begin at longer sequences; what a custom module takes nobody knows.
        if not options.is_engine and not model.manifest.is_custom:
            raise
        print(f"Note: no run before the first request: {error}", file=sys.stderr, flush=True)
    with contextlib.suppress(InputError):  # no decode.onnx, or no engine of it: whole passes then
        model.check_decoding()
        with model.start_decoding() as state:
            state.step({state.add([model.config.pad_token_id]): model.config.pad_token_id})
    return model


def _describe(model: Runtime, start: Start) -> Ready:
    on_gpu = model.record is not None or model.providers[0].startswith("CUDA")
    concurrency = start.concurrency
    if concurrency is None:
        threads = start.runtime.get("threads") or 1
        concurrency = 1 if on_gpu else max(1, len(os.sched_getaffinity(0)) // threads)
    try:
        model.check_decoding()
        decodes = True
    except ReformerExportError:
        decodes = False
    return Ready(model.description, model.notes, model.max_length, decodes, concurrency, on_gpu)


def _check_size(size: int, limit: int) -> None:
    """TooLargeError for outputs that the front process would not take: a custom module's sizes are not all
    known before it runs."""
    if size > limit:
        fix = "send fewer rows at a time, or raise the server's `max_response`"
        raise TooLargeError("answer", f"{size} bytes of outputs", f"at most {limit}", fix)


if __name__ == "__main__":
    main()
