"""The routes of the open inference protocol v2: server, health, models, infer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reformer_export import __version__
from reformer_export.artifact.signature import GraphTensor
from reformer_export.errors import InputError, one_line_repr
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.serving.joining import Request as InferenceRequest
from reformer_export.serving.json_values import write_json_values
from reformer_export.serving.limits import await_answer, read_body
from reformer_export.serving.models import ServedModel
from reformer_export.serving.refusals import NotFoundError, NotReadyError, TooLargeError
from reformer_export.serving.request_log import record_of
from reformer_export.serving.tensors_v2 import (
    HEADER_LENGTH,
    InferRequest,
    datatype_of_input,
    datatype_of_output,
    describe_output,
    read_infer_request,
)

if TYPE_CHECKING:
    from reformer_export.serving.app import Server

VERSION: Final = "1"
"""Of every model: another artifact is another model, or another server."""
PLATFORM: Final = "reformer_export"
PARAMETERS: Final = ("binary_data_output", "num_hashes", "timeout")
"""Of a request."""
_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"


def make_routes(server: Server) -> list[Route]:
    """The protocol's routes."""
    routes = _Routes(server)
    found = []
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            Route(f"{path}/infer", routes.infer, methods=["POST"]),
            Route(f"{path}/ready", routes.show_model_ready),
            Route(path, routes.show_model),
        ]
    return [
        *found,
        Route("/v2", routes.show_server),
        Route("/v2/health/live", routes.show_live),
        Route("/v2/health/ready", routes.show_ready),
    ]


class _Routes:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def show_server(self, _request: Request) -> Response:
        return _json(
            {"name": "reformer-export", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def show_live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def show_ready(self, _request: Request) -> Response:
        problem = self._server.find_problem()
        if problem is not None:
            raise NotReadyError("server", f"one that is not ready ({problem})", "a ready one", "wait")
        return _json({"ready": True})

    async def show_model(self, request: Request) -> Response:
        model = self._find_model(request)
        inputs = [(each, datatype_of_input(each)) for each in model.manifest.inputs]
        outputs = [(each, datatype_of_output(each)) for each in model.manifest.outputs]
        return _json(
            {
                "name": model.name,
                "versions": [VERSION],
                "platform": PLATFORM,
                "inputs": [_describe_tensor(*each) for each in inputs],
                "outputs": [_describe_tensor(*each) for each in outputs],
                "parameters": describe_model(model),
            }
        )

    async def show_model_ready(self, request: Request) -> Response:
        model = self._find_model(request)
        if model.problem is not None:
            raise NotReadyError("model", f"one that is not ready ({model.problem})", "a ready one", "wait")
        return _json({"name": model.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        model, options = self._find_model(request), self._server.options
        model.check_accepts()
        body = await read_body(request, options.max_body, options.client_timeout)
        asked = await read_infer_request(body, request.headers.get(HEADER_LENGTH), model.manifest.inputs)
        wanted = _choose_outputs(asked, model)
        made, seconds = self._make_request(asked, model)
        record = record_of(request)
        record.tokens = made.rows * made.length
        if options.log_inputs:
            record.inputs = {name: values.tolist() for name, values in asked.arrays.items()}
        answered = await await_answer(model.batcher.submit(made), request, seconds)
        record.queue_ms, record.run_ms, record.batch = answered.queue_ms, answered.run_ms, answered.rows
        head = {"model_name": model.name, "model_version": VERSION, **({"id": asked.id} if asked.id else {})}
        return await _write_answer(head, {name: answered.outputs[name] for name in wanted}, wanted)

    def _make_request(self, asked: InferRequest, model: ServedModel) -> tuple[InferenceRequest, float]:
        """What goes into the queue, checked, and the seconds that it may take."""
        unknown = sorted(set(asked.parameters) - set(PARAMETERS))
        if unknown:
            got, expected = one_line_repr(unknown[0]), f"one of {', '.join(PARAMETERS)}"
            raise InputError("parameters", got, expected, "leave it out")
        rounds = asked.parameters.get("num_hashes")
        if rounds is not None:
            rounds = choose_num_hashes(model.manifest, rounds)
        made = model.joiner.check(asked.arrays, model.max_length, rounds)
        size = made.rows * made.row_bytes
        if size > self._server.options.max_response:
            fix = "send fewer rows at a time, or raise the server's `max_response`"
            limit = self._server.options.max_response
            raise TooLargeError("answer", f"{size} bytes of outputs", f"at most {limit}", fix)
        return made, self._choose_timeout(asked.parameters.get("timeout"))

    def _choose_timeout(self, microseconds: Any) -> float:
        """Seconds: the server's, or fewer where the client says so, in microseconds as Triton has it."""
        seconds = self._server.options.timeout
        if microseconds is None or microseconds == 0:
            return seconds
        if type(microseconds) is not int or microseconds < 0:
            got = one_line_repr(microseconds)
            raise InputError("parameters, timeout", got, "microseconds, a whole number", "leave it out")
        return seconds if microseconds >= 1e6 * seconds else microseconds / 1e6

    def _find_model(self, request: Request) -> ServedModel:
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise NotFoundError("version", repr(version[:40]), VERSION, "leave it out")
        model = self._server.find_model(request.path_params["model"])
        record_of(request).model = model.name
        return model


def _describe_tensor(tensor: GraphTensor, datatype: str) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": datatype, "shape": tensor.sizes({})}


def describe_model(model: ServedModel) -> dict[str, Any]:
    """What a client may want to know of a model besides its tensors."""
    facts = model.worker.facts
    return {
        "task": model.spec.task,
        "vocab_size": model.spec.vocab_size,
        "max_length": model.max_length,
        "dtype": model.manifest.dtype,
        "precision": model.manifest.precision,
        "batches": model.joiner.rule,
        "runs_on": None if facts is None else facts.description,
        "notes": [] if facts is None else facts.notes,
        "artifact_replaced": model.is_replaced,
    }


def _choose_outputs(asked: InferRequest, model: ServedModel) -> dict[str, bool]:
    """The outputs to send and whether each is binary."""
    names = [each.name for each in model.manifest.outputs]
    unknown = next((name for name in asked.outputs if name not in names), None)
    if unknown is not None:
        raise InputError("outputs", one_line_repr(unknown), f"of {', '.join(names)}", "leave it out")
    given = asked.outputs or dict.fromkeys(names)
    return {name: asked.binary if is_binary is None else is_binary for name, is_binary in given.items()}


async def _write_answer(
    head: dict[str, Any], outputs: Mapping[str, NDArray[Any]], wanted: Mapping[str, bool]
) -> Response:
    """JSON, then binary tensors. Numbers become JSON in pieces, between which other requests have a turn."""
    text, tail = [msgspec.json.encode({**head, "outputs": []})[:-2]], []
    for index, (name, values) in enumerate(outputs.items()):
        described = msgspec.json.encode(describe_output(name, values, wanted[name]))
        text.append(b"," + described if index else described)
        if wanted[name]:
            tail.append(np.ascontiguousarray(values).data.cast("B"))
            continue
        text[-1] = text[-1][:-1] + b',"data":['
        for piece in write_json_values(values):
            text.append(piece)
            await asyncio.sleep(0)
        text.append(b"]}")
    text.append(b"]}")
    header = b"".join(text)
    if not tail:
        return Response(header, media_type=_JSON)
    return PartsResponse([header, *tail], media_type=_BINARY, headers={HEADER_LENGTH: str(len(header))})


def _json(values: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(values), media_type=_JSON)


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
