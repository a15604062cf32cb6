"""How much a client may send and how long it may take: bodies, slow senders, slow readers, who left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import h11
from starlette.requests import Request
from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from reformer_export.serving.refusals import (
    ClientGoneError,
    SlowClientError,
    TimedOutError,
    TooLargeError,
    UnsupportedTypeError,
)

T = TypeVar("T")
GRACE: Final = 1.0
"""Seconds more than the body's own limit, so that its refusal is sent before the connection closes."""
_SENT_WHOLE: Final = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
_WORDS: Final = b'{"error": "the request took too long to arrive"}'
_TIMED_OUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_WORDS), _WORDS)
)


class TimedProtocol(H11Protocol):
    """uvicorn's connection, closed when its client takes more than `client_timeout` seconds to send a whole
    request, from its first moment or the connection's on, or takes nothing of its answer for so long."""

    client_timeout = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._sending: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch_sender()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_sender()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._sending, self._taking):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

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

    def _watch_sender(self) -> None:
        """Have the timer run while a request is on its way, and only then."""
        is_whole = self.conn.their_state in _SENT_WHOLE
        is_resting = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is not None
        if is_whole or is_resting:
            if self._sending is not None:
                self._sending.cancel()
                self._sending = None
        elif self._sending is None:
            self._sending = self.loop.call_later(self.client_timeout + GRACE, self._refuse_sender)

    def _refuse_sender(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TIMED_OUT)
            self.transport.close()
        else:
            self.transport.abort()


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The request's body.

    Raises:
        UnsupportedTypeError: it is compressed.
        TooLargeError: it has more than `limit` bytes.
        SlowClientError: it took more than `seconds`.
        ClientGoneError: the client left.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        fix = "send it as it is"
        raise UnsupportedTypeError("Content-Encoding", repr(encoding[:40]), "no compression", fix)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 19 or int(announced) > limit):
        raise _too_large(f"{announced[:20]} bytes", limit)
    try:
        return await asyncio.wait_for(_collect(request.receive, limit), seconds)
    except asyncio.TimeoutError as error:
        fix = "send it faster"
        raise SlowClientError("body", f"a part of it in {seconds:g} s", "all of it", fix) from error


async def _collect(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("client", "a closed connection", "a request")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(f"more than {limit} bytes", limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(got: str, limit: int) -> TooLargeError:
    fix = "send less at a time, or raise the server's `max_body`"
    return TooLargeError("body", got, f"at most {limit} bytes", fix)


async def await_answer(answer: Coroutine[Any, Any, T], receive: Receive, seconds: float) -> T:
    """What `answer` gives; it is cancelled when the client leaves, or after `seconds`.

    Raises:
        ClientGoneError: the client left.
        TimedOutError: it took longer.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(await_departure(receive))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGoneError("client", "a closed connection", "one that waits for its answer")
        fix = "try again later, send less, or raise the server's `timeout`"
        raise TimedOutError("answer", f"none in {seconds:g} s", "one in that time", fix)
    finally:
        task.cancel()
        gone.cancel()


async def await_departure(receive: Receive) -> None:
    """Until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
