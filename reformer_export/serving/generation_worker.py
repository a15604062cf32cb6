"""Generation in a worker: what the front process asks for, among others that it asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from reformer_export.runtimes import Runtime
from reformer_export.runtimes.cache_choice import choose_cache
from reformer_export.runtimes.generation import Generation, GenerationOptions
from reformer_export.serving.failures import failure_from_error
from reformer_export.serving.generation_scheduler import GenerationScheduler
from reformer_export.serving.generation_stream import GenerationStream
from reformer_export.serving.messages import Begun, Generate, Pieces


class AskedStream(GenerationStream):
    """What `message` asks of a model, whose prompt is its `payload`; answers go through `send`."""

    def __init__(
        self, model: Runtime, message: Generate, payload: bytes | bytearray, send: Callable[..., Any]
    ) -> None:
        prompt = message.read_prompt(payload)
        ids, tokenizer = model.read_prompt(prompt), model.tokenizer
        # With a cache wherever there is one: there is room for a text of any length, or it ends there.
        has_cache = choose_cache(model, GenerationOptions())
        options = GenerationOptions(cache="on" if has_cache else "off", **message.options)
        generation = Generation(model, ids, options, tokenizer, message.given)
        super().__init__(model, generation, tokenizer.start_stream(ids), message.stop, message.id)
        echoed = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        self.begun = Begun(self.id, len(ids), echoed if message.echo else "")
        self.is_left = False
        self._send = send

    def is_cancelled(self) -> bool:
        return self.is_left

    def end(self, error: Exception | None) -> None:
        if error is not None:
            self._send(failure_from_error(self.id, error))


class GenerationWorker:
    """Continues prompts; methods return at once, answers go through `send`.

    `limits`: of its scheduler, whose `lanes` are one where each token is a whole pass.
    """

    def __init__(self, model: Runtime, send: Callable[..., Any], *, lanes: int, **limits: int) -> None:
        self._model = model
        self._send = send
        self._streams: weakref.WeakValueDictionary[int, AskedStream] = weakref.WeakValueDictionary()
        self.scheduler = GenerationScheduler(
            model, lambda pieces: send(Pieces(pieces)), lanes=lanes, **limits
        )

    def submit(self, message: Generate, payload: bytes | bytearray) -> None:
        """Let a prompt wait for its turn: text in UTF-8, or token ids, int64."""
        try:
            stream = AskedStream(self._model, message, payload, self._send)
            self._streams[stream.id] = stream
            self._send(stream.begun)
            self.scheduler.submit(stream)
        except ConnectionError:  # the front has gone
            raise
        except Exception as error:  # one request's failure is not the worker's
            self._send(failure_from_error(message.id, error))

    def cancel(self, request_id: int) -> None:
        """Stop a generation at the next step, or forget one that waits."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.is_left = True
            self.scheduler.forget(stream)
