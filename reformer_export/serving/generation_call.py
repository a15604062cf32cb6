"""One generation as the front process sees it: asked of a worker, and of the next one where that dies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

import msgspec

from reformer_export.errors import ReformerExportError
from reformer_export.serving.messages import Begun, Failure, Generate, Piece, error_from_parts
from reformer_export.serving.refusals import NotReadyError, SlowClientError
from reformer_export.serving.worker import Worker, WorkerDiedError

MAX_WORKERS: Final = 3
"""That one generation may be asked of: it may be what ends them."""


class GenerationCall:
    """A generation and what has come of it.

    Where its worker dies, the next one gets the tokens that have come as given ones, and goes on: with the
    same seed, and where steps are deterministic, that is the text as if nothing had happened.

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
        self._workers_asked = 0
        self._id: int | None = None
        self._restarting: asyncio.Task[None] | None = None

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.reason is not None or self.error is not None

    def start(self) -> None:
        """Ask the worker, now or when it is up."""
        message = msgspec.structs.replace(self._message, given=self._ids) if self._ids else self._message
        try:
            self._id = self._worker.generate(message, self._payload, self._take)
            self._workers_asked += 1
        except WorkerDiedError:
            self._restarting = asyncio.get_running_loop().create_task(self._start_again())

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._restarting is not None:
            self._restarting.cancel()
        if self._id is not None and not self.is_over:
            self._worker.cancel(self._id)
            self._id = None

    def take_text(self) -> str:
        """What has come since it was asked last."""
        text = "".join(self.pending)
        self.pending.clear()
        self._pending_characters = 0
        return text

    def _take(self, answer: Begun | Piece | Failure | None) -> None:
        if isinstance(answer, Piece):
            self._ids += answer.ids
            self.reason = answer.reason
            if answer.text:
                self._add_text(answer.text)
        elif isinstance(answer, Begun):
            self.begun = answer
        elif isinstance(answer, Failure):
            self.error = error_from_parts(answer.kind, answer.parts)
        elif self._workers_asked < MAX_WORKERS:
            self._restarting = asyncio.get_running_loop().create_task(self._start_again())
            return
        else:
            got = f"{self._workers_asked} workers that died while they generated this"
            self.error = NotReadyError("model", got, "one that does not", "send another request")
        self._on_change()

    def _add_text(self, text: str) -> None:
        self.pending.append(text)
        self._pending_characters += len(text)
        if self._pending_characters > self._max_pending and not self.is_over:
            self.cancel()
            got, expected = f"{self._pending_characters} characters that wait for it", "one that reads"
            self.error = SlowClientError("client", got, expected, "ask for fewer tokens")

    async def _start_again(self) -> None:
        try:
            await self._worker.wait_until_up()
            self.start()
        except ReformerExportError as error:
            self.error = error
            self._on_change()
