"""How much a client may send and how long an answer may take; who left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from reformer_export.errors import ReformerExportError
from reformer_export.serving.refusals import (
    ClientGoneError,
    SlowClientError,
    TimedOutError,
    TooLargeError,
    UnsupportedTypeError,
)
from reformer_export.serving.timed_protocol import DEPARTED, IS_LATE

T = TypeVar("T")


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The request's body.

    Raises:
        UnsupportedTypeError: it is compressed.
        TooLargeError: it has more than `limit` bytes.
        SlowClientError: it took more than `seconds`, of which the connection keeps count.
        ClientGoneError: the client left.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        fix = "send it as it is"
        raise UnsupportedTypeError("Content-Encoding", repr(encoding[:40]), "no compression", fix)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 19 or int(announced) > limit):
        raise _too_large(f"{announced[:20]} bytes", limit)
    parts, size = [], 0
    while True:
        message = await request.receive()
        if request.scope["state"].get(IS_LATE):
            raise SlowClientError("body", f"a part of it in {seconds:g} s", "all of it", "send it faster")
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


async def await_answer(
    answer: Coroutine[Any, Any, T] | asyncio.Future[T], request: Request, seconds: float
) -> T:
    """What `answer` gives; it is cancelled when the client leaves, or after `seconds`.

    Raises:
        ClientGoneError: the client left.
        TimedOutError: it took longer.
    """
    task = asyncio.ensure_future(answer)
    departed: asyncio.Future[None] | None = request.scope["state"].get(DEPARTED)
    gone = departed or asyncio.ensure_future(await_departure(request.receive))
    reason: list[ReformerExportError] = []

    def give_up(error: ReformerExportError) -> None:
        reason.append(error)
        task.cancel()

    def leave(_: object) -> None:
        give_up(ClientGoneError("client", "a closed connection", "one that waits for its answer"))

    def end() -> None:
        fix = "try again later, send less, or raise the server's `timeout`"
        give_up(TimedOutError("answer", f"none in {seconds:g} s", "one in that time", fix))

    timer = asyncio.get_running_loop().call_later(seconds, end)
    gone.add_done_callback(leave)
    try:
        return await task
    except asyncio.CancelledError:
        if reason:
            raise reason[0] from None
        raise
    finally:
        timer.cancel()
        gone.remove_done_callback(leave)
        if departed is None:
            gone.cancel()


async def await_departure(receive: Receive) -> None:
    """Until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
