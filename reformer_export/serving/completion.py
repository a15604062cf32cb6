"""The texts of one request to /v1/completions, and how they are told: whole, or as they come."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from reformer_export.serving.completion_body import CompletionBody, Prompt, generations_from_body
from reformer_export.serving.generation_call import GenerationCall
from reformer_export.serving.refusals import body_from_error
from reformer_export.serving.worker import Worker

PATH: Final = "/v1/completions"
MAX_PENDING: Final = 2**18
"""Characters of a stream that wait for its client, beyond what the system's buffers hold."""

FINISH_REASONS: Final = {
    "eos_token": "stop",
    "stop_string": "stop",
    "max_new_tokens": "length",
    "max_length": "length",
}
"""OpenAI's words for why a text ends, by ours."""

DONE: Final = b"data: [DONE]\n\n"


class Completion:
    """What `body` asks of a model's worker; to be ended with `cancel`.

    Attributes:
        calls: a generation for each text.
        usage: tokens so far, in OpenAI's words: a prompt counts once, however many texts follow it.
    """

    def __init__(
        self,
        worker: Worker,
        model: str,
        body: CompletionBody,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> None:
        """Raises InputError; nothing is asked yet."""
        generations = generations_from_body(body, prompts, max_new_tokens)
        self._changed = asyncio.Event()
        self._n = body.n or 1
        self._echoes = bool(body.echo)
        self._is_stream = bool(body.stream)
        self._tells_usage = body.stream_options is not None and body.stream_options.include_usage
        self._head: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        most = MAX_PENDING if self._is_stream else math.inf
        self.calls = [
            GenerationCall(worker, message, payload, self._changed.set, most)
            for message, payload in generations
        ]

    @property
    def usage(self) -> dict[str, int]:
        prompts = [0 if call.begun is None else call.begun.prompt_tokens for call in self.calls]
        read, written = sum(prompts[:: self._n]), sum(call.tokens for call in self.calls)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    async def begin(self) -> None:
        """Ask for the texts, and wait for the whole of them; where they are streamed, until every prompt was
        accepted and some text has come. Raises what is at fault."""
        for call in self.calls:
            call.start()
        while True:
            self._raise_error()
            if all(call.reason is not None for call in self.calls):
                return
            has_all = all(call.begun is not None for call in self.calls)
            if self._is_stream and has_all and any(call.pending or call.reason for call in self.calls):
                return
            await self._wait_for_change()

    def cancel(self) -> None:
        """Nobody waits for the texts any more."""
        for call in self.calls:
            call.cancel()

    def whole(self) -> bytes:
        """The answer in JSON."""
        choices = [
            {
                "text": self._prompt(call) + call.take_text(),
                "index": index,
                "logprobs": None,
                "finish_reason": FINISH_REASONS[call.reason or ""],
            }
            for index, call in enumerate(self.calls)
        ]
        return msgspec.json.encode({**self._head, "choices": choices, "usage": self.usage})

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events: what has come for all texts since the last ones went out, in one
        piece of bytes. An error is the last event."""
        heads = [self._event_head(index) for index in range(len(self.calls))]
        texts = [self._prompt(call) for call in self.calls]
        told = [False] * len(self.calls)
        while True:
            parts = []
            for index, call in enumerate(self.calls):
                text, texts[index] = texts[index] + call.take_text(), ""
                has_ended = call.reason is not None and not told[index]
                if text or has_ended:
                    parts.append(_write_event(heads[index], text, call.reason))
                told[index] = told[index] or has_ended
            error = next((call.error for call in self.calls if call.error is not None), None)
            if error is not None:
                parts.append(b"data: " + msgspec.json.encode(body_from_error(PATH, error)) + b"\n\n")
            elif all(told):
                parts += [self._write_usage(), DONE]
            if parts:
                yield b"".join(parts)
            if error is not None or all(told):
                return
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _raise_error(self) -> None:
        for call in self.calls:
            if call.error is not None:
                raise call.error

    def _prompt(self, call: GenerationCall) -> str:
        return call.begun.prompt if self._echoes and call.begun is not None else ""

    def _event_head(self, index: int) -> bytes:
        """An event of a text, up to the text."""
        head = msgspec.json.encode({**self._head, "choices": []})
        choice = b'{"index":%d,"logprobs":null,"text":' % index
        return b"data: " + head.removesuffix(b"]}") + choice

    def _write_usage(self) -> bytes:
        if not self._tells_usage:
            return b""
        return b"data: " + msgspec.json.encode({**self._head, "choices": [], "usage": self.usage}) + b"\n\n"


def _write_event(head: bytes, text: str, reason: str | None) -> bytes:
    finish = b"null" if reason is None else b'"%s"' % FINISH_REASONS[reason].encode()
    return b'%s%s,"finish_reason":%s}]}\n\n' % (head, msgspec.json.encode(text), finish)
