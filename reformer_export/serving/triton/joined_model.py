"""The python backend's model: requests of unlike shapes, joined where their answers stay the same.

Triton gives `execute` all that waits, of any lengths (allow_ragged_batch). Those run together that joining.py
lets: each answer is that of `Runtime.run` on the request alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.serving.joining import Joiner, Request, make_joiner
from reformer_export.serving.triton.server import ModelArguments, error_response, open_artifact

Outputs = dict[str, NDArray[Any]]


class RequestRunner:
    """Checks requests for a runtime and answers them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._joiner: Joiner = make_joiner(runtime.manifest, runtime.config.pad_token_id)

    def check(self, arrays: Mapping[str, NDArray[Any]], num_hashes: object = None) -> Request:
        """The request for these inputs; InputError for what the model does not take."""
        if num_hashes is not None and not isinstance(num_hashes, int):
            fix = "mend the request's parameter"
            raise InputError(NUM_HASHES_INPUT, repr(num_hashes), "an integer", fix)
        rounds = choose_num_hashes(self._runtime.manifest, num_hashes, self._runtime.num_hashes)
        return self._joiner.check(arrays, self._runtime.max_length, rounds)

    def answer(self, asked: Sequence[Request]) -> list[Outputs | ReformerExportError]:
        """The outputs of each request, or why it has none."""
        groups: dict[Any, list[int]] = {}
        for number, request in enumerate(asked):
            alone = ("alone", number)
            groups.setdefault(alone if request.company is None else request.company, []).append(number)
        answers: dict[int, Outputs | ReformerExportError] = {}
        for members in groups.values():
            found = self._run_together([asked[number] for number in members])
            answers.update(zip(members, found, strict=True))
        return [answers[number] for number in range(len(asked))]

    def _run_together(self, requests: list[Request]) -> list[Outputs | ReformerExportError]:
        try:
            inputs = self._joiner.join(requests)
            outputs = self._runtime.run(inputs, num_hashes=requests[0].num_hashes)
            return list(self._joiner.split(requests, outputs))
        except ReformerExportError as error:  # an engine takes so many rows
            if len(requests) > 1:
                middle = len(requests) // 2
                return self._run_together(requests[:middle]) + self._run_together(requests[middle:])
            if requests[0].rows == 1 or requests[0].company is None:
                return [error]
        return [_join_rows(self._run_together(_cut_in_halves(requests[0])))]


def _cut_in_halves(request: Request) -> list[Request]:
    middle = request.rows // 2
    return [
        dataclasses.replace(
            request, inputs={name: value[part] for name, value in request.inputs.items()}, rows=rows
        )
        for part, rows in ((slice(middle), middle), (slice(middle, None), request.rows - middle))
    ]


def _join_rows(parts: list[Outputs | ReformerExportError]) -> Outputs | ReformerExportError:
    outputs: list[Outputs] = []
    for part in parts:
        if isinstance(part, ReformerExportError):
            return part
        outputs.append(part)
    return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}


class JoinedModel:
    """Triton's TritonPythonModel."""

    def initialize(self, arguments: ModelArguments) -> None:
        """Open the artifact beside model.py; each file is compared with its SHA-256."""
        self._runtime = open_artifact(arguments)
        self._runner = RequestRunner(self._runtime)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request."""
        import triton_python_backend_utils as backend

        asked: list[Request | ReformerExportError] = []
        for request in requests:
            try:
                asked.append(self._read(backend, request))
            except ReformerExportError as error:
                asked.append(error)
        good = [each for each in asked if isinstance(each, Request)]
        answers = iter(self._runner.answer(good))
        results = [next(answers) if isinstance(each, Request) else each for each in asked]
        return [self._respond(backend, result) for result in results]

    def finalize(self) -> None:
        """Release the artifact."""
        self._runtime.close()

    def _read(self, backend: Any, request: Any) -> Request:
        names = [each.name for each in self._runtime.manifest.inputs]
        found = {name: backend.get_input_tensor_by_name(request, name) for name in names}
        arrays = {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}
        parameters = json.loads(request.parameters() or "{}")
        return self._runner.check(arrays, parameters.get(NUM_HASHES_INPUT))

    def _respond(self, backend: Any, result: Outputs | ReformerExportError) -> Any:
        if isinstance(result, ReformerExportError):
            return error_response(backend, result)
        # Triton has no tensors without a dimension.
        arrays = {name: np.atleast_1d(np.asarray(value, order="C")) for name, value in result.items()}
        tensors = [backend.Tensor(name, value) for name, value in arrays.items()]
        return backend.InferenceResponse(output_tensors=tensors)
