"""The routes of OpenAI's shape: /v1/completions and /v1/models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reformer_export.errors import InputError
from reformer_export.serving.completion import PATH, Completion
from reformer_export.serving.completion_body import CompletionBody, read_completion_body, read_prompts
from reformer_export.serving.limits import await_answer, await_departure, read_body
from reformer_export.serving.models import ServedModel
from reformer_export.serving.refusals import QueueFullError
from reformer_export.serving.request_log import RequestRecord, record_of

if TYPE_CHECKING:
    from reformer_export.serving.app import Server

TASK: Final = "text-generation"
OWNER: Final = "reformer-export"


def make_routes(server: Server) -> list[Route]:
    """Completions, and the models that have them."""
    routes = _Routes(server)
    return [
        Route(PATH, routes.complete, methods=["POST"]),
        Route("/v1/models", routes.list_models),
        Route("/v1/models/{model}", routes.show_model),
    ]


class _Routes:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def list_models(self, _request: Request) -> Response:
        models = [_describe(model) for model in self._server.models.values() if model.spec.task == TASK]
        return _json({"object": "list", "data": models})

    async def show_model(self, request: Request) -> Response:
        return _json(_describe(self._server.find_model(request.path_params["model"])))

    async def complete(self, request: Request) -> Response:
        options = self._server.options
        content = await read_body(request, options.max_body, options.client_timeout)
        body = read_completion_body(content)
        model = self._choose_model(body)
        record = record_of(request)
        record.model = model.name
        model.check_accepts()
        prompts = await read_prompts(body)
        if options.log_inputs:
            record.inputs = [each if isinstance(each, str) else each.tolist() for each in prompts]
        completion = Completion(model.worker, model.name, body, prompts, options.max_new_tokens)
        self._check_queue(model, len(completion.calls))
        try:
            await await_answer(completion.begin(), request, options.timeout)
        except BaseException:
            completion.cancel()
            raise
        if body.stream:
            return EventStream(completion, record)
        _note_usage(completion, record)
        return Response(completion.whole(), media_type="application/json")

    def _choose_model(self, body: CompletionBody) -> ServedModel:
        models = self._server.models
        if body.model is None:
            able = [model for model in models.values() if model.spec.task == TASK]
            if len(able) != 1:
                expected = (
                    f"one of {', '.join(model.name for model in able) or 'none: no model generates text'}"
                )
                raise InputError("model", "none", expected, "name it")
            return able[0]
        model = self._server.find_model(body.model)
        if model.spec.task != TASK:
            fix = "use /v2, or name a language model"
            raise InputError("model", f"one for {model.spec.task}", f"one for {TASK}", fix)
        return model

    def _check_queue(self, model: ServedModel, more: int) -> None:
        options, now = self._server.options, len(model.worker.generations)
        most = options.max_streams + options.max_queue
        if now + more > most:
            got = f"{more} texts more than {now} that are generated or wait"
            raise QueueFullError("queue", got, f"at most {most}", "try again later")


class EventStream(Response):
    """A completion as server-sent events; it is ended when the client leaves."""

    def __init__(self, completion: Completion, record: RequestRecord) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._completion = completion
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        sending = asyncio.ensure_future(self._send_events(send, head))
        leaving = asyncio.ensure_future(await_departure(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            self._completion.cancel()
            _note_usage(self._completion, self._record)
            self._record.error = next(
                (type(e.error).__name__ for e in self._completion.calls if e.error), None
            )

    async def _send_events(self, send: Send, head: dict[str, Any]) -> None:
        await send(head)
        async for events in self._completion.events():
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _note_usage(completion: Completion, record: RequestRecord) -> None:
    usage = completion.usage
    record.tokens, record.new_tokens = usage["prompt_tokens"], usage["completion_tokens"]


def _describe(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.read_at, "owned_by": OWNER}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
