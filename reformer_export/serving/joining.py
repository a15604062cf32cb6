"""Which requests of a model run together: checked, made one, and taken apart again.

Sequences, of ids or of vectors, run together where the model itself pads them to one length: each answer is
that of the request alone. Of a custom module no padding and no mask is known: its requests run together where
their shapes are equal but for the rows, and only where every input and output has its rows first, in one
symbolic dimension. Else they run one by one.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.artifact.signature import has_row_a_token
from reformer_export.batch.batching import count_output_bytes, find_group
from reformer_export.errors import InputError
from reformer_export.runtimes.inputs import prepare_inputs
from reformer_export.runtimes.named_inputs import HOST_TYPES, check_names, prepare_named_inputs
from reformer_export.spec import ModelSpec

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """Inputs by name, checked; a mask that is all ones is left out.

    `rows`, `length`: sequences, and tokens of each with padding; of a custom module rows, or 1 where there
    are none, and the greatest second dimension. `company`: requests may run together where it is the same;
    None: with no other. `num_hashes`: None for the runtime's. `row_bytes`: of a row's outputs.
    """

    inputs: Arrays
    rows: int
    length: int
    company: Hashable
    num_hashes: int | None
    row_bytes: int


class Joiner(ABC):
    """What requests of one model are to each other."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    @property
    @abstractmethod
    def rule(self) -> str:
        """Who runs together, in words."""

    @abstractmethod
    def check(self, arrays: Mapping[str, NDArray[Any]], max_length: int, num_hashes: int | None) -> Request:
        """The request for `arrays`, by name; InputError for what the model does not take. `max_length`:
        tokens of its longest sequence, or of its engine's."""

    @abstractmethod
    def join(self, requests: Sequence[Request]) -> Arrays:
        """The inputs of one run for requests of one company."""

    def split(self, requests: Sequence[Request], outputs: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
        """The outputs of each of the requests, from those of their run."""
        row = 0
        for request in requests:
            yield {
                name: self._cut(value[row : row + request.rows], request) for name, value in outputs.items()
            }
            row += request.rows

    def _cut(self, value: NDArray[Any], request: Request) -> NDArray[Any]:
        return value


class SequenceJoiner(Joiner):
    """Sequences and their masks. What stands at a masked position depends on what follows it, so that a
    request with some runs with those of its own length."""

    def __init__(self, manifest: Manifest, pad_token_id: int) -> None:
        super().__init__(manifest)
        self._pad = 0 if manifest.spec.takes_vectors else pad_token_id
        self._has_row_a_token = has_row_a_token(manifest.spec)
        self._measure = functools.lru_cache(4096)(functools.partial(_measure_sequence, manifest.spec))

    @property
    def rule(self) -> str:
        return "sequences that the model itself pads to one length"

    def check(self, arrays: Mapping[str, NDArray[Any]], max_length: int, num_hashes: int | None) -> Request:
        spec = self._manifest.spec
        name, mask_name = spec.input_names
        check_names(self._manifest, arrays)
        values, given = arrays[name], arrays.get(mask_name)
        if values.ndim > 1 and values.shape[1] > max_length:
            expected = spec.describe_lengths() if max_length == spec.max_length else f"at most {max_length}"
            got, fix = f"{values.shape[1]} tokens", "shorten the sequence, or split it"
            raise InputError(name, got, expected, fix)
        batch, mask = prepare_inputs(spec, values, given, self._pad, self._manifest.dtype)
        rows, length = mask.shape
        group, row_bytes = self._measure(length)
        inputs, company = {name: batch}, (num_hashes, False, group)
        if not mask.all():
            inputs[mask_name] = mask.astype(np.int8)
            company = num_hashes, True, length
        return Request(inputs, rows, length, company, num_hashes, row_bytes)

    def join(self, requests: Sequence[Request]) -> Arrays:
        if len(requests) == 1:
            return requests[0].inputs
        name, mask_name = self._manifest.spec.input_names
        rows, length = sum(each.rows for each in requests), max(each.length for each in requests)
        first = requests[0].inputs[name]
        batch = np.full((rows, length, *first.shape[2:]), self._pad, first.dtype)
        mask, row = np.zeros((rows, length), np.int8), 0
        for each in requests:
            batch[row : row + each.rows, : each.length] = each.inputs[name]
            mask[row : row + each.rows, : each.length] = each.inputs.get(mask_name, 1)
            row += each.rows
        return {name: batch} if mask.all() else {name: batch, mask_name: mask}

    def _cut(self, value: NDArray[Any], request: Request) -> NDArray[Any]:
        return value[:, : request.length] if self._has_row_a_token else value


def _measure_sequence(spec: ModelSpec, length: int) -> tuple[int, int]:
    """The group of sequences of that length, and the bytes of each one's outputs."""
    return find_group(length, spec), count_output_bytes(spec, length)


class NamedJoiner(Joiner):
    """The inputs of a custom module."""

    @property
    def rule(self) -> str:
        if self._manifest.signature.batch is None:
            return "none: not every input and output has its rows first, in one symbolic dimension"
        return "inputs of equal shapes but for their rows"

    def check(self, arrays: Mapping[str, NDArray[Any]], max_length: int, num_hashes: int | None) -> Request:
        check_names(self._manifest, arrays)
        inputs, sizes = prepare_named_inputs(self._manifest, arrays)
        batch = self._manifest.signature.batch
        company = None
        if batch is not None:
            company = (num_hashes, *(value.shape[1:] for value in inputs.values()))
        rows = 1 if batch is None else sizes[batch]
        length = max(value.shape[1] if value.ndim > 1 else 1 for value in inputs.values())
        size = 0
        for output in self._manifest.outputs:  # an unknown dimension counts as 1
            dtype = HOST_TYPES[output.dtype]
            itemsize = 4 if output.dtype == "float16" else dtype.itemsize
            size += itemsize * math.prod(max(1, each) for each in output.sizes(sizes))
        return Request(inputs, rows, length, company, num_hashes, size // rows)

    def join(self, requests: Sequence[Request]) -> Arrays:
        if len(requests) == 1:
            return requests[0].inputs
        return {name: np.concatenate([each.inputs[name] for each in requests]) for name in requests[0].inputs}

    def split(self, requests: Sequence[Request], outputs: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
        if len(requests) == 1:  # whose outputs may have no rows
            yield dict(outputs)
        else:
            yield from super().split(requests, outputs)


def make_joiner(manifest: Manifest, pad_token_id: int) -> Joiner:
    """Of the requests of this artifact."""
    return NamedJoiner(manifest) if manifest.is_custom else SequenceJoiner(manifest, pad_token_id)
