"""uvicorn's HTTP connection with limits of its own: slow senders, slow readers, endless heads."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reformer_export.serving.gathering import GatheringTransport

GRACE: Final = 1.0
"""Seconds for the refusal of a body that is late to be sent, before the connection is cut off."""
IS_LATE: Final = "is_late"
"""Of a request's state: its body took too long."""
DEPARTED: Final = "departed"
"""Of a request's state: a future that is done when its client has left."""
FLUSH: Final = "flush"
"""Of a request's state: a function that sends what was written."""
UPGRADES: Final = "upgrades"
"""Of a request's state: it asks for another protocol, and its body is therefore not read."""
IS_EXCESS: Final = "is_excess"
"""Of a request's state: there were as many connections as are allowed before its own."""
MAX_HEAD_BYTES: Final = 2**16
"""Of a request's first line and headers, where they do not come at once, and of what is no body in a body."""
MAX_REFUSED: Final = 64
"""Connections at once, besides those allowed, that are told so; more are closed."""
MAX_PIPELINED: Final = 64
"""Requests that wait for the answers before theirs; what follows them is not read."""


def _write_refusal(status: str, words: str) -> bytes:
    body = b'{"error": "%s"}' % words.encode()
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return b"%scontent-length: %d\r\n\r\n%s" % (head.encode(), len(body), body)


_TIMED_OUT: Final = _write_refusal("408 Request Timeout", "the request took too long to arrive")
_TOO_LONG: Final = _write_refusal(
    "431 Request Header Fields Too Large", f"the head has more than {MAX_HEAD_BYTES} bytes"
)


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's connection, closed when its client takes more than `client_timeout` seconds to send a whole
    request, from its first moment or the connection's on, or takes nothing of its answer for so long, or when
    a head, an extension of a chunk or a trailer does not end. Trailers are passed over, and so is what
    follows a request for another protocol, which HTTP/1.1 answers."""

    client_timeout = 30.0
    max_connections = 1024

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._sending: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._is_last = False
        self._departed: asyncio.Future[None] = self.loop.create_future()
        super().connection_made(GatheringTransport(transport))  # type: ignore[arg-type]
        self._is_excess = len(self.connections) > self.max_connections
        if len(self.connections) > self.max_connections + MAX_REFUSED:
            self.transport.abort()
        self._watch_sender()

    def data_received(self, data: bytes) -> None:
        if self._is_last:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self._is_in_head:
                self._refuse_head(_TOO_LONG)
            else:
                self.transport.abort()
        self._watch_sender()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._sending, self._taking):
            if timer is not None:
                timer.cancel()
        self._departed.set_result(None)
        super().connection_lost(exc)

    # What the parser finds

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._is_last = True
            raise ValueError("too many")  # to the parser: the connection ends behind the others' answers
        self._is_in_head = False
        self._unset_keepalive_if_required()
        self._is_last = self.parser.should_upgrade()
        state: dict[str, Any] = self.scope["state"]
        state[FLUSH] = self.transport.flush  # type: ignore[attr-defined]
        state[DEPARTED] = self._departed
        state[IS_EXCESS] = self._is_excess
        state[UPGRADES] = self._is_last and any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        if self._is_last or self._is_excess:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0  # and what follows in the same piece is not counted
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # without which nobody would notice that the client leaves
        if self.cycle.response_complete:  # a refusal that did not wait for the body: the connection rests
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    def send_400_response(self, msg: str) -> None:
        """Of bytes that are no HTTP; what stands before them are requests that were accepted."""
        self._is_last = True
        if self.pipeline and not self._is_in_head:  # of one that waits for others' answers
            self.pipeline.popleft()
            before = self.pipeline[0][0] if self.pipeline else self._answered
            before.keep_alive = False
            return
        answers_another = self.cycle is not None and not self.cycle.response_complete
        if answers_another and (self._is_in_head or self.cycle.response_started):
            self.cycle.keep_alive = False
        else:
            self.transport.write(_write_refusal("400 Bad Request", msg))
            self.transport.close()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        self._watch_sender()

    # Slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._taking is None:
            self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _watch_reader(self, size: int) -> None:
        """Close the connection when, in the time given, nothing leaves the `size` bytes that wait."""
        self._taking = self.loop.call_later(self.client_timeout, self._look_at_reader, size)

    def _look_at_reader(self, size: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < size:
            self._watch_reader(left)
        else:
            self.transport.abort()

    # Slow senders

    def _watch_sender(self) -> None:
        """Have the timer run while a request is on its way, and only then."""
        if not self._is_awaited():
            if self._sending is not None:
                self._sending.cancel()
                self._sending = None
        elif self._sending is None:
            self._sending = self.loop.call_later(self.client_timeout, self._refuse_sender)

    def _is_awaited(self) -> bool:
        """Whether it is the client's turn to send; at rest between requests it need not."""
        if self.pipeline or self.transport.is_closing():
            return False
        if not self._is_in_head:
            return True
        has_answered = self.cycle is None or self.cycle.response_complete
        return has_answered and self.timeout_keep_alive_task is None

    def _refuse_sender(self) -> None:
        """Half a head is answered here, half a body by who reads it; what follows an answer is cut off."""
        self._sending = None
        if self._is_in_head:
            self._refuse_head(_TIMED_OUT)
        elif self.cycle.response_complete:
            self.transport.abort()
        else:
            state: dict[str, Any] = self.cycle.scope["state"]
            state[IS_LATE] = True
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            self._sending = self.loop.call_later(GRACE, self.transport.abort)

    def _refuse_head(self, answer: bytes) -> None:
        """Close the connection with `answer`, or without where another one goes on."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()
