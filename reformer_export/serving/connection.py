"""The front process's end of the socket to a worker: whole frames, read into memory that is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

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

STAGING_BYTES: Final = 2**16
"""For frames' beginnings; small frames are read several at a time."""

OnMessage = Callable[[ToFront, memoryview], None]
OnLost = Callable[[Exception | None], None]


class WorkerConnection(asyncio.BufferedProtocol):
    """`on_message` gets each frame's message and payload, which is nobody else's; `on_lost` is told once that
    no more come, with the error where the worker sent something that is no frame.

    A large payload is received where it will be read, all but its beginning: it is not copied on its way.
    """

    def __init__(self, on_message: OnMessage, on_lost: OnLost, max_payload: int) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._max_payload = max_payload
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._staging = bytearray(STAGING_BYTES)
        self._message: ToFront | None = None
        self._buffer = memoryview(self._staging)
        self._filled = 0

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
        try:
            if self._message is None:
                self._read_staged()
            elif self._filled == len(self._buffer):
                message, payload = self._message, self._buffer
                self._stage(b"")
                self._on_message(message, payload)
        except BrokenFrameError as error:
            self._error = error
            if self._transport is not None:
                self._transport.abort()

    def _read_staged(self) -> None:
        """Give out the frames that are whole, and go on with what follows them."""
        staged, at = self._buffer[: self._filled], 0
        while len(staged) - at >= PREFIX.size:
            header_bytes, payload_bytes = read_prefix(staged[at : at + PREFIX.size], self._max_payload)
            begin = at + PREFIX.size
            end = begin + header_bytes
            if end > len(staged):
                self._stage(staged[at:], PREFIX.size + header_bytes)
                return
            message = decode_for_front(staged[begin:end])
            at = min(end + payload_bytes, len(staged))
            payload = np.empty(payload_bytes, np.uint8).data
            payload[: at - end] = staged[end:at]
            if at < end + payload_bytes:
                self._message, self._buffer, self._filled = message, payload, at - end
                return
            self._on_message(message, payload)
        self._stage(staged[at:])

    def _stage(self, rest: bytes | memoryview, least: int = 0) -> None:
        """Await a frame's beginning, of which `rest` is there and `least` bytes are needed."""
        self._message = None
        if len(self._staging) < least:
            self._staging = bytearray(least)
        self._buffer = memoryview(self._staging)
        self._buffer[: len(rest)] = bytes(rest)
        self._filled = len(rest)
