"""One generation as the front process sees it: asked of a worker, and of the next one where that dies."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Final

import msgspec

from reformer_export.errors import ReformerExportError
from reformer_export.serving.messages import Begun, Failure, Generate, Piece, error_from_parts
from reformer_export.serving.refusals import NotReadyError, SlowClientError
from reformer_export.serving.worker import Worker, WorkerDiedError

MAX_DEATHS: Final = 2
"""Of workers in a row without a token of a generation: it may be what ends them."""


class GenerationCall:
    """A generation and what has come of it.

    Where its worker dies, the next one gets the tokens that have come as given ones, and goes on: with the
    same seed, and where steps are deterministic, that is the text as if nothing had happened. Generations
    that no token has come of yet are tried one at a time then: one of them may be what ended the worker.

    Attributes:
        begun: what was accepted; None before.
        tokens: number of tokens that have come.
        reason: why it ended; None while it has not.
        error: why there is no more; None where nothing is at fault.
        pending: pieces of text that nobody has taken yet.
    """

    def __init__(
        self,
        worker: Worker,
        message: Generate,
        payload: bytes,
        on_change: Callable[[], None],
        max_pending: float = math.inf,
    ) -> None:
        """`on_change` is told of every answer; where more than `max_pending` characters wait to be taken, the
        generation ends in an error."""
        self.begun: Begun | None = None
        self.reason: str | None = None
        self.error: Exception | None = None
        self.pending: list[str] = []
        self._pending_characters = 0
        self._worker = worker
        self._message = message
        self._payload = payload
        self._on_change = on_change
        self._max_pending = max_pending
        self._ids: list[int] = []
        self._deaths = 0
        self._id: int | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.reason is not None or self.error is not None

    def start(self) -> None:
        """Ask the worker, now or when it is up."""
        self._worker.generations.add(self)
        try:
            self._ask()
        except WorkerDiedError:
            self._retry()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._worker.generations.discard(self)
        if self._retrying is not None:
            self._retrying.cancel()
        if self._id is not None and not self.is_over:
            self._worker.cancel(self._id)
            self._id = None

    def take_text(self) -> str:
        """What has come since it was asked last."""
        text = "".join(self.pending)
        self.pending.clear()
        self._pending_characters = 0
        return text

    def _ask(self) -> None:
        message = msgspec.structs.replace(self._message, given=self._ids) if self._ids else self._message
        self._progress.clear()
        self._id = self._worker.generate(message, self._payload, self._take)

    def _take(self, answer: Begun | Piece | Failure | None) -> None:
        if isinstance(answer, Begun):
            self.begun = answer
            self._on_change()
            return
        self._progress.set()
        if isinstance(answer, Piece):
            self._deaths = 0
            self._ids += answer.ids
            self.reason = answer.reason
            if answer.text:
                self._add_text(answer.text)
        elif isinstance(answer, Failure):
            self.error = error_from_parts(answer.kind, answer.parts)
        else:
            self._deaths += 1
            if self._deaths < MAX_DEATHS:
                self._retry()
                return
            got = f"{self._deaths} workers that died while they generated this"
            self.error = NotReadyError("model", got, "one that does not", "send another request")
        if self.is_over:
            self._worker.generations.discard(self)
        self._on_change()

    def _add_text(self, text: str) -> None:
        self.pending.append(text)
        self._pending_characters += len(text)
        if self._pending_characters > self._max_pending and not self.is_over:
            self.cancel()
            got, expected = f"{self._pending_characters} characters that wait for it", "one that reads"
            self.error = SlowClientError("client", got, expected, "ask for fewer tokens")

    def _retry(self) -> None:
        self._retrying = asyncio.get_running_loop().create_task(self._ask_next_worker())

    async def _ask_next_worker(self) -> None:
        alone = contextlib.nullcontext() if self._ids else self._worker.retrying
        try:
            async with alone:
                await self._ask_when_up()
                if not self._ids:
                    await self._progress.wait()
        except ReformerExportError as error:
            self.error = error
            self._worker.generations.discard(self)
            self._on_change()

    async def _ask_when_up(self) -> None:
        while True:
            await self._worker.wait_until_up()
            with contextlib.suppress(WorkerDiedError):
                self._ask()
                return
