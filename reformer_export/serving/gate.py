"""Around every request: its id, who may ask, what errors become, its line in the log and its count.

It is the application that the HTTP server sees; the routes stand behind it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from reformer_export.errors import ReformerExportError, one_line_repr
from reformer_export.serving.options import LOOPBACK
from reformer_export.serving.refusals import (
    CLIENT_GONE,
    ClientGoneError,
    ForbiddenError,
    NotFoundError,
    NotReadyError,
    RefusalError,
    UnknownNameError,
    body_from_error,
    headers_from_error,
    status_from_error,
)
from reformer_export.serving.request_log import RequestRecord
from reformer_export.serving.timed_protocol import FLUSH, IS_EXCESS, UPGRADES

if TYPE_CHECKING:
    from reformer_export.serving.app import Server

_ONCE: Final = (b"host", b"authorization", b"inference-header-content-length")
"""Headers that decide something; the parser sees to those of the body."""
_ID: Final = re.compile(rb"[A-Za-z0-9._:/+-]{1,128}")


class WrongMethodError(RefusalError):
    """A route that is there, asked in another way."""

    status = 405

    def __init__(self, *parts: object, allow: str = "") -> None:
        super().__init__(*parts)
        self._allow = allow

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": self._allow}


class CutOffError(RefusalError):
    """A request that was not finished when the server had to end."""

    status = 503


class Gate:
    """The ASGI application: `routes` behind the checks of `server`."""

    def __init__(self, server: Server, routes: Sequence[Route]) -> None:
        self._server = server
        self._routes = routes
        names = {*server.options.allow_hosts, server.options.host}
        is_local = server.options.host in LOOPBACK
        self._hosts = names | LOOPBACK if server.options.allow_hosts or is_local else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        record = RequestRecord(_choose_id(headers), scope["method"])
        scope["state"] = {**scope.get("state", {}), "record": record}
        reply = _Reply(send, record, scope["state"].get(FLUSH, lambda: None))
        route = self._find_route(scope)
        try:
            self._check(scope, headers)
            response = await _choose_endpoint(route, scope)(Request(scope, receive))
            await response(scope, receive, reply)
        except asyncio.CancelledError:  # at the end of the time for draining
            await self._refuse(scope, CutOffError("server", "its end", "time for an answer"), reply)
        except Exception as error:
            await self._refuse(scope, error, reply)
        finally:
            record.route = "" if route is None else route.path
            if record.status == 0 or not reply.is_over:
                record.status = CLIENT_GONE
            self._server.metrics.count_request(record)
            self._server.log.write_request(record)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if scope["state"].get(IS_EXCESS):
            most = self._server.options.max_connections
            fix = "try again later, or raise the server's `max_connections`"
            raise NotReadyError("connections", "more", f"at most {most}", fix)
        names = [name for name, _ in scope["headers"]]
        twice = next((name for name in _ONCE if names.count(name) > 1), None)
        if twice is not None:  # somebody before this server may have read the other one
            raise RefusalError("header", f"{twice.decode()} twice", "it once", "leave one out")
        if scope["state"].get(UPGRADES):
            fix = "send it without the header Upgrade"
            raise RefusalError("Upgrade", "another protocol for a request with a body", "HTTP/1.1", fix)
        host = headers.get(b"host", b"").decode("latin-1")  # which every browser sends
        if self._hosts is not None and host and _name_of_host(host) not in self._hosts:
            fix = "call it by its address, or name that host with `allow_hosts`"
            raise ForbiddenError("Host", repr(host[:100]), "a name of this server", fix)
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") == b"cross-site":
            raise ForbiddenError("page", "one of another site", "this server's own", "ask from a program")
        authorization = headers.get(b"authorization")
        self._server.keys.check(
            scope["path"], None if authorization is None else authorization.decode("latin-1")
        )

    def _find_route(self, scope: Scope) -> Route | None:
        """What the request's path matches; its parameters are put into the scope."""
        for route in self._routes:
            match = route.path_regex.match(scope["path"])
            if match is not None:
                scope["path_params"] = match.groupdict()
                return route
        return None

    async def _refuse(self, scope: Scope, error: Exception, reply: _Reply) -> None:
        record = reply.record
        record.error = _describe(error)
        if not isinstance(error, ReformerExportError):
            sys.stderr.write(f"Error in request {record.id}:\n{''.join(traceback.format_exception(error))}")
        if isinstance(error, ClientGoneError):
            record.status = CLIENT_GONE
            return
        if reply.has_begun:
            raise error  # the connection is closed: half an answer must not look whole
        content = msgspec.json.encode(body_from_error(scope["path"], error))
        head = {"content-type": "application/json", **headers_from_error(error)}
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in head.items()]
        raw.append((b"content-length", str(len(content)).encode()))
        await reply({"type": "http.response.start", "status": status_from_error(error), "headers": raw})
        await reply({"type": "http.response.body", "body": content})


class _Reply:
    """`send`, which notes in the record what goes out and adds the request's id."""

    def __init__(self, send: Send, record: RequestRecord, flush: Callable[[], None]) -> None:
        """`flush` sends what was written."""
        self._send = send
        self._flush = flush
        self.record = record
        self.has_begun = False
        self.is_over = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.record.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self.record.id.encode())]
            await self._send({**message, "headers": headers})
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        self.record.bytes_out += len(body)
        if body:
            await self._send({"type": message["type"], "body": body, "more_body": True})
        if message.get("flush", True):
            self._flush()
        if is_last:  # alone: the server then sees to the next request, for which the body need not wait
            await self._send({"type": message["type"], "body": b""})
            self.is_over = True


def _choose_id(headers: Mapping[bytes, bytes]) -> str:
    """The client's own, where it is harmless, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


def _name_of_host(host: str) -> str:
    """Without its port and the brackets of an IPv6 address."""
    name = host.rpartition(":")[0] if re.fullmatch(r"[^\]]*:\d*|\[.*\]:\d*", host) else host
    return name.strip("[]").lower()


def _choose_endpoint(route: Route | None, scope: Scope) -> Callable[[Request], Awaitable[Response]]:
    if route is None:
        path = scope["path"]
        fix = "ask /v1/completions, no model here is for chats" if path.startswith("/v1/chat/") else "mend it"
        raise NotFoundError("path", one_line_repr(path), "one of those that docs/serving.md lists", fix)
    if scope["method"] not in (route.methods or ()):
        allow = ", ".join(sorted(route.methods or ()))
        raise WrongMethodError("method", scope["method"], allow, "use that", allow=allow)
    endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint
    return endpoint


def _describe(error: Exception) -> str:
    """For the log: what was refused, without what the user sent."""
    kind = type(error).__name__
    if not isinstance(error, ReformerExportError) or isinstance(error, UnknownNameError):
        return kind
    return f"{kind}: {error.what.split(',')[0]}"


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
