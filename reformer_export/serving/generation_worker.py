"""Generation in a worker: sequences that step together, join and leave between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reformer_export.runtimes import Runtime
from reformer_export.serving.messages import Failure, Generate


class GenerationScheduler:
    """Continues prompts on one decoding state; methods return at once, answers go through `send`."""

    def __init__(self, model: Runtime, send: Callable[..., Any], max_streams: int) -> None:
        self._send = send

    def submit(self, message: Generate, prompt: list[int]) -> None:
        """Let a prompt wait for its turn."""
        self._send(Failure(message.id, "InputError", ("prompt", "generation", "it to be written", "")))

    def cancel(self, request_id: int) -> None:
        """Stop a generation, or forget one that waits."""
