"""A worker's end of the socket to the front process: whole frames, in threads that wait."""

from __future__ import annotations

import socket
import threading
from typing import Any

from reformer_export.serving.messages import (
    MAX_PAYLOAD_BYTES,
    PREFIX,
    ToFront,
    ToWorker,
    decode_for_worker,
    encode_frame,
    read_prefix,
)


class Channel:
    """Frames over a connected stream socket; any thread may send, one receives."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, message: ToFront, *payload: Any) -> None:
        """Send a message with the bytes of C-contiguous arrays; OSError when the front has gone."""
        views = [memoryview(part).cast("B") for part in payload if memoryview(part).nbytes]
        frame = encode_frame(message, sum(view.nbytes for view in views))
        with self._sending:
            self._socket.sendall(frame)
            for view in views:
                self._socket.sendall(view)

    def receive(self) -> tuple[ToWorker, bytearray] | None:
        """The next message and its payload; None when the front has gone."""
        prefix = self._read(PREFIX.size)
        if prefix is None:
            return None
        header_bytes, payload_bytes = read_prefix(prefix, MAX_PAYLOAD_BYTES)
        header, payload = self._read(header_bytes), self._read(payload_bytes)
        if header is None or payload is None:
            return None
        return decode_for_worker(header), payload

    def _read(self, count: int) -> bytearray | None:
        buffer = bytearray(count)
        view, at = memoryview(buffer), 0
        while at < count:
            try:
                got = self._socket.recv_into(view[at:])
            except OSError:
                return None
            if not got:
                return None
            at += got
        return buffer
