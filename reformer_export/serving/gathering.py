"""A connection's writing side: what was written in several pieces is sent at once, and not copied."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

Piece = bytes | bytearray | memoryview


class GatheringTransport:
    """A socket's transport; what is written goes out with `flush`, or at the end of the loop's turn.

    Each packet wakes the client, and joining an answer's head and body would copy the body: one call of the
    system sends both from where they lie.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._pieces: list[Piece] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Piece) -> None:
        """Send it soon, behind what was written before."""
        if not data:
            return
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what was written."""
        pieces, self._pieces = self._pieces, []
        sent = 0
        if pieces and not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            with suppress(OSError):  # no room, or a client that left: the transport finds the same
                sent = os.writev(self._fd, pieces)
        for piece in pieces:
            if sent < len(piece):
                self._transport.write(memoryview(piece)[sent:])
            sent = max(0, sent - len(piece))

    def close(self) -> None:
        """Close the connection when all was sent."""
        self.flush()
        self._transport.close()
