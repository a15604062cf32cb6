"""The process that holds one artifact open: `python -m reformer_export.serving.worker_process FD`.

One session, which `concurrency` threads call at once: on the CPU with one thread each, which answers more
requests a second than one run at a time with all cores, and holds the weights once. What it is asked comes
over the socket FD (messages.py); it ends when that closes, and on no signal of a terminal or an init system,
which the front process answers for both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import ArtifactError, InputError, ReformerExportError
from reformer_export.runtimes import LeftPaddingWarning, Runtime, RuntimeOptions, load
from reformer_export.runtimes.named_inputs import example_inputs, least_sizes
from reformer_export.serving.channel import Channel
from reformer_export.serving.failures import failure_from_error
from reformer_export.serving.generation_worker import GenerationScheduler
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
    describe_arrays,
)
from reformer_export.serving.refusals import TooLargeError, parts_from_error


def main() -> None:
    """Serve the socket whose descriptor is the only argument, until it closes."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    with contextlib.suppress(OSError, BrokenFrameError):
        _serve(channel)
    os._exit(0)  # threads may be in a run, whose answer nobody waits for


def _serve(channel: Channel) -> None:
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
    runs: queue.SimpleQueue[tuple[Infer, bytearray]] = queue.SimpleQueue()
    for _ in range(ready.concurrency):
        threading.Thread(
            target=_run_forever, args=(model, channel, runs, start.max_response), daemon=True
        ).start()
    scheduler = GenerationScheduler(
        model,
        channel.send,
        lanes=1 if ready.on_gpu else ready.concurrency,
        max_streams=start.max_streams,
        max_cache=start.max_cache,
    )
    channel.send(ready)
    while (got := channel.receive()) is not None:
        message, payload = got
        if isinstance(message, Infer):
            runs.put((message, payload))
        elif isinstance(message, Generate):
            scheduler.submit(message, payload)
        elif isinstance(message, Cancel):
            scheduler.cancel(message.id)


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
        model.run(example_inputs(model.manifest, least_sizes(model.manifest)))
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


def _run_forever(
    model: Runtime,
    channel: Channel,
    runs: queue.SimpleQueue[tuple[Infer, bytearray]],
    max_response: int,
) -> None:
    while True:
        message, payload = runs.get()
        try:
            begun = time.perf_counter()
            outputs = model.run(arrays_from_payload(payload, message.inputs), num_hashes=message.num_hashes)
            run_ms = 1e3 * (time.perf_counter() - begun)
            arrays = {name: np.asarray(value, order="C") for name, value in outputs.items()}
            _check_size(arrays, max_response)
        except Exception as error:  # one request's failure is not the worker's
            channel.send(failure_from_error(message.id, error))
            continue
        try:
            channel.send(Result(message.id, describe_arrays(arrays), run_ms), *arrays.values())
        except OSError:
            return


def _check_size(arrays: Mapping[str, NDArray[Any]], limit: int) -> None:
    """TooLargeError for outputs that the front process would not take: a custom module's sizes are not all
    known before it runs."""
    size = sum(array.nbytes for array in arrays.values())
    if size > limit:
        fix = "send fewer rows at a time, or raise the server's `max_response`"
        raise TooLargeError("answer", f"{size} bytes of outputs", f"at most {limit}", fix)


if __name__ == "__main__":
    main()
