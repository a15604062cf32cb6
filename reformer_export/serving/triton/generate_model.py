"""The python backend's decoupled model: a request is a generation, a response a token of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError, one_line
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.tokenizer import TextStream
from reformer_export.serving.triton.config import GENERATE_INPUTS, STREAMS_PARAMETER
from reformer_export.serving.triton.generation_loop import GenerationLoop
from reformer_export.serving.triton.server import (
    ModelArguments,
    error_response,
    open_artifact,
    read_parameter,
)

PROMPTS: Final = ("text_input", "input_ids")


class TokenStream:
    """A request's generation, and where its responses go."""

    def __init__(self, backend: Any, sender: Any, generation: Generation, text: TextStream | None) -> None:
        """`text` makes the tokens' text; None for a model without a tokenizer."""
        self.generation = generation
        self._backend = backend
        self._sender = sender
        self._text = text

    def is_cancelled(self) -> bool:
        """Whether the client has left."""
        return bool(self._sender.is_cancelled())

    def send(self, token: int | None) -> None:
        """A response with the token, the text that it completes and, in the last one, why it ended."""
        reason = self.generation.stop_reason
        text = "" if self._text is None or token is None else self._text.add(token)
        if reason is not None and self._text is not None:
            text += self._text.end()
        ids = [] if token is None else [token]
        tensors = [
            self._backend.Tensor("token_id", np.array(ids, np.int64)),
            self._backend.Tensor("text_output", np.array([text.encode()], np.object_)),
            self._backend.Tensor("stop_reason", np.array([(reason or "").encode()], np.object_)),
        ]
        response = self._backend.InferenceResponse(output_tensors=tensors)
        if reason is None:
            self._sender.send(response)
        else:
            self._sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def fail(self, error: BaseException) -> None:
        """An error in the place of the rest."""
        if not isinstance(error, ReformerExportError):
            error = RuntimeUnavailableError("generation", f"'{one_line(error)}'", "it to work", "ask again")
        response = error_response(self._backend, error)
        self._sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def drop(self) -> None:
        """The end, for Triton's sake."""
        self._sender.send(flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class GenerateModel:
    """Triton's TritonPythonModel."""

    def initialize(self, arguments: ModelArguments) -> None:
        """Open the artifact beside model.py, each file compared with its SHA-256, and draw a token."""
        self._runtime = open_artifact(arguments, open_for="generate")
        next(self._runtime.generate([0], max_new_tokens=1, eos_token_id=()))
        self._loop = GenerationLoop(self._runtime, int(read_parameter(arguments, STREAMS_PARAMETER)))

    def execute(self, requests: Sequence[Any]) -> None:
        """Let the requests' generations begin; their responses come from the loop's thread."""
        import triton_python_backend_utils as backend

        for request in requests:
            sender = request.get_response_sender()
            try:
                self._loop.submit(self._start(backend, request, sender))
            except ReformerExportError as error:
                response = error_response(backend, error)
                sender.send(response, flags=backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """End what runs, and release the artifact."""
        self._loop.close()
        self._runtime.close()

    def _start(self, backend: Any, request: Any, sender: Any) -> TokenStream:
        values = {}
        for name in GENERATE_INPUTS:
            tensor = backend.get_input_tensor_by_name(request, name)
            if tensor is not None:
                values[name] = tensor.as_numpy().reshape(-1)
        return TokenStream(backend, sender, *start_generation(self._runtime, values))


def start_generation(runtime: Runtime, values: dict[str, Any]) -> tuple[Generation, TextStream | None]:
    """What the inputs of a request ask for, each an array [size]; InputError for what the model does not
    take."""
    given = [name for name in PROMPTS if name in values]
    if len(given) != 1:
        got = " and ".join(given) or "neither"
        raise InputError("prompt", got, f"{PROMPTS[0]} or {PROMPTS[1]}", "give one of them")
    options = {
        name: value.tolist() if name == "eos_token_id" else _read_one(name, value)
        for name, value in values.items()
        if name not in PROMPTS
    }
    text = _read_one(PROMPTS[0], values[PROMPTS[0]]) if given == [PROMPTS[0]] else None
    prompt = values[PROMPTS[1]] if text is None else _read_text(text)
    generation = runtime.generate(prompt, **options)
    try:
        return generation, runtime.tokenizer.start_stream(generation.prompt_ids)
    except ReformerExportError:
        return generation, None


def _read_one(name: str, value: Any) -> Any:
    if value.size != 1:
        raise InputError(name, f"{value.size} values", "one", "give one")
    return value[0] if value.dtype == np.object_ else value[0].item()


def _read_text(value: bytes | str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise InputError(PROMPTS[0], "bytes that are no UTF-8", "text", "mend it") from error
