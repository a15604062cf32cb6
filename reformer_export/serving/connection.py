"""The front process's end of the socket to a worker: whole frames, read into memory that is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from reformer_export.serving.messages import (
    PREFIX,
    BrokenFrameError,
    ToFront,
    ToWorker,
    decode_for_front,
    encode_frame,
    read_prefix,
)

OnMessage = Callable[[ToFront, memoryview], None]
OnLost = Callable[[Exception | None], None]


class WorkerConnection(asyncio.BufferedProtocol):
    """`on_message` gets each frame's message and payload, which is nobody else's; `on_lost` is told once that
    no more come, with the error where the worker sent something that is no frame.

    A payload is received where it will be read: large answers are not copied on their way.
    """

    def __init__(self, on_message: OnMessage, on_lost: OnLost, max_payload: int) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._max_payload = max_payload
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._await_prefix()

    def send(self, message: ToWorker, *payload: Any) -> None:
        """Send a message with the bytes of C-contiguous arrays; lost where the worker has gone."""
        views = [memoryview(part).cast("B") for part in payload]
        if self._transport is None or self._transport.is_closing():
            return
        frame = encode_frame(message, sum(view.nbytes for view in views))
        self._transport.write(b"".join([frame, *views]))

    def close(self) -> None:
        """Send nothing more; the worker ends."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_lost(self._error)  # what the system says is the death, which is told by its status

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._filled += count
        if self._filled < len(self._buffer):
            return
        try:
            self._advance()
        except BrokenFrameError as error:
            self._error = error
            if self._transport is not None:
                self._transport.abort()

    def _advance(self) -> None:
        """Go on with what follows the part of a frame that is whole now."""
        if self._part == "prefix":
            header_bytes, self._payload_bytes = read_prefix(self._buffer, self._max_payload)
            if header_bytes == 0:
                raise BrokenFrameError("a frame without a header")
            self._await("header", header_bytes)
        elif self._part == "header":
            self._message = decode_for_front(self._buffer)
            if self._payload_bytes:
                self._await("payload", self._payload_bytes)
            else:
                self._finish(memoryview(b""))
        else:
            self._finish(self._buffer)

    def _finish(self, payload: memoryview) -> None:
        message = self._message
        self._await_prefix()
        self._on_message(message, payload)

    def _await_prefix(self) -> None:
        self._await("prefix", PREFIX.size)

    def _await(self, part: str, count: int) -> None:
        self._part = part
        self._buffer = np.empty(count, np.uint8).data
        self._filled = 0
