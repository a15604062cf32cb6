"""Routes for who runs the server: metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reformer_export.serving.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from reformer_export.serving.app import Server


def make_routes(server: Server) -> list[Route]:
    """/metrics."""

    async def show_metrics(_request: Request) -> Response:
        return Response(server.metrics.render(), media_type=CONTENT_TYPE)

    return [Route("/metrics", show_metrics)]
