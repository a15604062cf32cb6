"""A response whose body lies in several places and is sent from there."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class PartsResponse(Response):
    """A whole body in `parts`, bytes one behind the other, which are not joined."""

    def __init__(self, parts: Sequence[bytes | memoryview], media_type: str, headers: dict[str, str]) -> None:
        size = sum(len(part) for part in parts)
        super().__init__(media_type=media_type, headers={**headers, "Content-Length": str(size)})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        *others, last = self._parts
        for part in others:
            await send({"type": "http.response.body", "body": part, "more_body": True, "flush": False})
        await send({"type": "http.response.body", "body": last})
