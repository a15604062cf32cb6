"""The application: what all routes share, and the routes put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reformer_export.errors import one_line_repr
from reformer_export.serving import completions, inference_v2, page
from reformer_export.serving.gate import Gate
from reformer_export.serving.keys import KeyRing, read_keys
from reformer_export.serving.metrics import CONTENT_TYPE, Metrics
from reformer_export.serving.models import ServedModel, list_problems, read_models
from reformer_export.serving.options import ServeOptions
from reformer_export.serving.refusals import NotFoundError
from reformer_export.serving.request_log import Log


@dataclass
class Server:
    """What all routes share.

    Attributes:
        options: as it was started.
        models: by name.
        log: one line a request.
        keys: who may ask.
        metrics: what Prometheus reads.
        is_draining: whether no new requests are wanted.
    """

    options: ServeOptions
    models: dict[str, ServedModel]
    log: Log
    keys: KeyRing
    metrics: Metrics = field(default_factory=Metrics)
    is_draining: bool = False

    def find_model(self, name: str) -> ServedModel:
        """NotFoundError where none of that name is served."""
        if name not in self.models:
            got = one_line_repr(name)
            raise NotFoundError("model", got, f"one of {', '.join(self.models)}", "ask for one of them")
        return self.models[name]

    def find_problem(self) -> str | None:
        """Why the server is not ready; None when it is."""
        if self.is_draining:
            return "it is shutting down"
        return next(list_problems(self.models), None)

    async def start(self) -> None:
        """Start every model's worker, one after the other: each takes memory and cores to open."""
        for model in self.models.values():
            await model.start()
            self.metrics.watch_model(model)

    async def close(self) -> None:
        """End every worker."""
        for model in self.models.values():
            await model.worker.close()


def make_server(options: ServeOptions) -> Server:
    """Read what is to be served; nothing is started. Raises what is at fault."""
    log = Log(log_inputs=options.log_inputs)
    return Server(options, read_models(options, log.say), log, read_keys(options.api_key_file))


def make_app(server: Server) -> ASGIApp:
    """The ASGI application of a server."""

    async def show_metrics(_request: Request) -> Response:
        return Response(server.metrics.render(), media_type=CONTENT_TYPE)

    routes = [route for room in (inference_v2, completions, page) for route in room.make_routes(server)]
    return Gate(server, [*routes, Route("/metrics", show_metrics)])
