"""The python backend's decoupled model: a request is a generation, a response a token of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError, one_line
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.tokenizer import TextStream
from reformer_export.serving.generation_scheduler import GenerationScheduler
from reformer_export.serving.generation_stream import GenerationStream
from reformer_export.serving.messages import Piece
from reformer_export.serving.stop_strings import check_stop_strings
from reformer_export.serving.triton.config import GENERATE_INPUTS, GENERATION_LIMITS
from reformer_export.serving.triton.options import TritonRequest
from reformer_export.serving.triton.server import (
    ModelArguments,
    error_response,
    open_artifact,
    read_parameter,
)

PROMPTS: Final = ("text_input", "input_ids")


class ResponseStream(GenerationStream):
    """A request's generation, whose responses go to Triton's `sender`."""

    def __init__(
        self,
        backend: Any,
        sender: Any,
        model: Runtime,
        generation: Generation,
        text: TextStream | None,
        stop: Sequence[str],
    ) -> None:
        super().__init__(model, generation, text, stop)
        self._backend = backend
        self._sender = sender
        self._is_gone = False

    def is_cancelled(self) -> bool:
        """Whether the client has left, or could not be told something."""
        try:
            return self._is_gone or bool(self._sender.is_cancelled())
        except Exception:
            return True

    def read(self, token: int | None) -> Piece | None:
        """A response with the token, the text that it completes and, in the last one, why it ended."""
        piece = super().read(token)
        if piece is not None:
            tensors = [
                self._backend.Tensor("token_id", np.array(piece.ids, np.int64)),
                self._backend.Tensor("text_output", np.array([piece.text.encode()], np.object_)),
                self._backend.Tensor("stop_reason", np.array([(piece.reason or "").encode()], np.object_)),
            ]
            response = self._backend.InferenceResponse(output_tensors=tensors)
            self._respond(response, is_last=piece.reason is not None)
        return piece

    def end(self, error: Exception | None) -> None:
        """An error in the place of the rest, or the end alone, for Triton's sake."""
        if error is None:
            self._respond(is_last=True)
            return
        if not isinstance(error, ReformerExportError):
            error = RuntimeUnavailableError("generation", f"'{one_line(error)}'", "it to work", "ask again")
        self._respond(error_response(self._backend, error), is_last=True)

    def _respond(self, *response: Any, is_last: bool) -> None:
        flags = self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
        try:
            self._sender.send(*response, flags=flags)
        except Exception:  # nobody takes it
            self._is_gone = True


class GenerateModel:
    """Triton's TritonPythonModel."""

    def initialize(self, arguments: ModelArguments) -> None:
        """Open the artifact beside model.py, each file compared with its SHA-256, and draw a token."""
        self._runtime = open_artifact(arguments, open_for="generate")
        next(self._runtime.generate([0], max_new_tokens=1, eos_token_id=()))
        usual = TritonRequest()
        limits = {
            key: int(read_parameter(arguments, key, str(getattr(usual, field))))
            for key, field in GENERATION_LIMITS.items()
        }
        self._scheduler = GenerationScheduler(self._runtime, lambda pieces: None, lanes=1, **limits)

    def execute(self, requests: Sequence[Any]) -> None:
        """Let the requests' generations begin; their responses come from the scheduler's thread."""
        import triton_python_backend_utils as backend

        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = start_generation(self._runtime, _read_inputs(backend, request))
                self._scheduler.submit(ResponseStream(backend, sender, self._runtime, *asked))
            except ReformerExportError as error:
                response = error_response(backend, error)
                sender.send(response, flags=backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """End what runs, and release the artifact."""
        self._scheduler.close()
        self._runtime.close()


def _read_inputs(backend: Any, request: Any) -> dict[str, Any]:
    found = {name: backend.get_input_tensor_by_name(request, name) for name in GENERATE_INPUTS}
    return {name: tensor.as_numpy().reshape(-1) for name, tensor in found.items() if tensor is not None}


def start_generation(
    runtime: Runtime, values: dict[str, Any]
) -> tuple[Generation, TextStream | None, list[str]]:
    """What the inputs of a request ask for, each an array [size]: tokens, what makes text of them, and where
    that stops; InputError for what the model does not take."""
    given = [name for name in PROMPTS if name in values]
    if len(given) != 1:
        got = " and ".join(given) or "neither"
        raise InputError("prompt", got, f"{PROMPTS[0]} or {PROMPTS[1]}", "give one of them")
    options = {
        name: value.tolist() if name == "eos_token_id" else _read_one(name, value)
        for name, value in values.items()
        if name not in (*PROMPTS, "stop")
    }
    stop = [_read_text("stop", each) for each in values.get("stop", ())]
    check_stop_strings(stop)
    text = _read_one(PROMPTS[0], values[PROMPTS[0]]) if given == [PROMPTS[0]] else None
    prompt = values[PROMPTS[1]] if text is None else _read_text(PROMPTS[0], text)
    generation = runtime.generate(prompt, **options)
    try:
        return generation, runtime.tokenizer.start_stream(generation.prompt_ids), stop
    except ReformerExportError:
        if stop:
            raise
        return generation, None, stop


def _read_one(name: str, value: Any) -> Any:
    if value.size != 1:
        raise InputError(name, f"{value.size} values", "one", "give one")
    return value[0] if value.dtype == np.object_ else value[0].item()


def _read_text(name: str, value: bytes | str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise InputError(name, "bytes that are no UTF-8", "text", "mend it") from error
