"""The python backend's model: requests of unlike lengths, joined where their answers stay the same.

Triton gives `execute` all that waits, of any lengths (allow_ragged_batch). Rows that the model itself pads to
one length run together; each answer is that of `Runtime.run` on the request alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.signature import has_row_a_token
from reformer_export.batch.batching import Batching, plan_batches
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.inputs import prepare_inputs
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.serving.triton.server import ModelArguments, error_response, open_artifact

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Asked:
    """A request that was checked: `ids` and `mask` int64 [rows, length]; `num_hashes` None for the
    runtime's."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    num_hashes: int | None

    @property
    def company(self) -> tuple[int | None, int]:
        """Requests may run together where this is the same. What stands at a masked position depends on what
        follows it, so that a request with some runs with those of its own length."""
        return self.num_hashes, 0 if self.mask.all() else self.ids.shape[1]


def check_request(
    runtime: Runtime, ids: NDArray[np.int64], mask: NDArray[np.int64] | None, num_hashes: object
) -> Asked:
    """A request's tensors, [rows, length]; InputError for what the model does not take."""
    if num_hashes is not None and not isinstance(num_hashes, int):
        raise InputError(NUM_HASHES_INPUT, repr(num_hashes), "an integer", "mend the request's parameter")
    rounds = choose_num_hashes(runtime.manifest, num_hashes, runtime.num_hashes)
    return Asked(*prepare_inputs(runtime.spec, ids, mask, runtime.config.pad_token_id), rounds)


def answer_requests(runtime: Runtime, asked: Sequence[Asked]) -> list[Outputs | ReformerExportError]:
    """The outputs of each request, with its rows first; or why it has none."""
    places = [(number, row) for number, each in enumerate(asked) for row in range(len(each.ids))]
    answers: dict[tuple[int, int], Outputs | ReformerExportError] = {}
    for company in dict.fromkeys(each.company for each in asked):
        alike = [place for place in places if asked[place[0]].company == company]
        lengths = [asked[number].ids.shape[1] for number, _ in alike]
        for batch in plan_batches(lengths, Batching(rows=None), runtime.spec):
            members = [alike[position] for position in batch]
            answers.update(_run_batch(runtime, asked, members))
    return [
        _join_rows([answers[number, row] for row in range(len(each.ids))])
        for number, each in enumerate(asked)
    ]


def _run_batch(
    runtime: Runtime, asked: Sequence[Asked], members: list[tuple[int, int]]
) -> dict[tuple[int, int], Outputs | ReformerExportError]:
    rows = [(asked[number].ids[row], asked[number].mask[row]) for number, row in members]
    try:
        rounds = asked[members[0][0]].num_hashes
        outputs = runtime.run([ids for ids, _ in rows], [mask for _, mask in rows], rounds)
    except ReformerExportError as error:
        if len(members) == 1:
            return {members[0]: error}
        halves = members[: len(members) // 2], members[len(members) // 2 :]  # an engine takes so many rows
        return {
            place: answer for half in halves for place, answer in _run_batch(runtime, asked, half).items()
        }
    is_by_token = has_row_a_token(runtime.spec)
    ends = [len(ids) if is_by_token else None for ids, _ in rows]  # without what joined them
    return {
        place: {name: value[row][: ends[row]] for name, value in outputs.items()}
        for row, place in enumerate(members)
    }


def _join_rows(rows: list[Outputs | ReformerExportError]) -> Outputs | ReformerExportError:
    outputs: list[Outputs] = []
    for row in rows:
        if isinstance(row, ReformerExportError):
            return row
        outputs.append(row)
    return {name: np.stack([row[name] for row in outputs]) for name in outputs[0]}


class JoinedModel:
    """Triton's TritonPythonModel."""

    def initialize(self, arguments: ModelArguments) -> None:
        """Open the artifact beside model.py; each file is compared with its SHA-256."""
        self._runtime = open_artifact(arguments)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request."""
        import triton_python_backend_utils as backend

        asked: list[Asked | ReformerExportError] = []
        for request in requests:
            try:
                asked.append(self._read(backend, request))
            except ReformerExportError as error:
                asked.append(error)
        good = [each for each in asked if isinstance(each, Asked)]
        answers = iter(answer_requests(self._runtime, good))
        results = [next(answers) if isinstance(each, Asked) else each for each in asked]
        return [self._respond(backend, result) for result in results]

    def finalize(self) -> None:
        """Release the artifact."""
        self._runtime.close()

    def _read(self, backend: Any, request: Any) -> Asked:
        ids = backend.get_input_tensor_by_name(request, "input_ids").as_numpy()
        mask = backend.get_input_tensor_by_name(request, "attention_mask")
        parameters = json.loads(request.parameters() or "{}")
        given = parameters.get(NUM_HASHES_INPUT)
        return check_request(self._runtime, ids, None if mask is None else mask.as_numpy(), given)

    def _respond(self, backend: Any, result: Outputs | ReformerExportError) -> Any:
        if isinstance(result, ReformerExportError):
            return error_response(backend, result)
        tensors = [backend.Tensor(name, np.ascontiguousarray(value)) for name, value in result.items()]
        return backend.InferenceResponse(output_tensors=tensors)
