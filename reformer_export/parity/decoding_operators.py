"""The step operators of a run of decode.onnx against the whole ones, and its caches against its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.contract import LOCAL_ATTENTION_STEP, LSH_ATTENTION_STEP
from reformer_export.modeling.layers import operator_attributes
from reformer_export.ops import local_attention_reference, lsh_attention_reference
from reformer_export.parity.compare import EPSILON, TOLERANCE, Precision
from reformer_export.parity.decoding_results import Finding
from reformer_export.parity.decoding_run import OUTPUT, Trace
from reformer_export.parity.noise import DRAWS, NOISE_UNITS
from reformer_export.parity.session import ParitySession
from reformer_export.spec import LSHAttentionSpec, ModelSpec

TOLERANCE_OF_ELEMENT: Final = 5e-6
"""Of an element of an operator's output, absolute and relative to the element: that of the operators' own
tests (tests/ops)."""

MAX_ALL_LENGTHS: Final = 8
"""A row with more calls than this is looked at around its layers' borders only."""


def judge_operators(session: ParitySession, trace: Trace) -> list[Finding]:
    """Every layer's step operator, whenever a row had got tokens, against the last rows of the whole operator
    over what each of the row's tokens was when it was new; and the caches, which have to be just that.

    The whole operator is the reference with the attributes of the manifest, not of the graph.
    """
    judge, findings = _OperatorJudge(session.spec, session.precision, trace), []
    for found in trace.cache_errors.values():
        what = f"cache {found.name}"
        place = (trace.case, found.row, found.length)
        findings.append(Finding("operator", *place, found.error, 0.0, found.layer, what))
    for row in range(len(trace.case.rows)):
        for length in _chosen_lengths(session.spec, trace.lengths(row)):
            findings += [judge.judge(row, length, layer) for layer in range(len(session.spec.layers))]
    return findings


def _chosen_lengths(spec: ModelSpec, lengths: Sequence[int]) -> list[int]:
    """All of a few; else those at a border of a chunk or of the padding, and the last."""
    borders = {layer.chunk_length for layer in spec.layers} | {spec.padding_multiple}
    return [
        length
        for length in lengths
        if len(lengths) <= MAX_ALL_LENGTHS
        or length == lengths[-1]
        or any(length % border in (0, 1) for border in borders)
    ]


@dataclass(frozen=True)
class _OperatorJudge:
    """Compares the step operators of one run; `noise` is measured where it is needed, by row and layer."""

    spec: ModelSpec
    precision: Precision
    trace: Trace
    noise: dict[tuple[int, int], float] = field(default_factory=dict)

    def judge(self, row: int, length: int, layer: int) -> Finding:
        """The new tokens of the call after which the row had `length` tokens."""
        begin = length - self.trace.new[row, length]
        expected = _attend(self.spec, layer, self._read(row, length, layer))[begin:].astype(np.float64)
        got = self.trace.of_row(layer, OUTPUT, row, length)[0, begin:]
        errors = np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf)
        limits = limit_elements(self.precision, expected)
        if (errors > limits).any():
            limits = np.maximum(limits, self._measure_noise(row, layer))
        nearest = np.unravel_index((errors / limits).argmax(), errors.shape)
        is_lsh = isinstance(self.spec.layers[layer], LSHAttentionSpec)
        operator = LSH_ATTENTION_STEP if is_lsh else LOCAL_ATTENTION_STEP
        error, limit = float(errors[nearest]), float(limits[nearest])
        return Finding("operator", self.trace.case, row, length, error, limit, layer, operator.name)

    def _read(self, row: int, length: int, layer: int) -> tuple[torch.Tensor, ...]:
        """What the layer read of a row's first `length` tokens, as the whole operator takes it, less the
        mask."""
        trace = self.trace
        if isinstance(self.spec.layers[layer], LSHAttentionSpec):
            arrays = [trace.of_row(layer, name, row, length) for name in ("query_key", "value")]
            arrays.append(trace.attended(layer)[row : row + 1, ..., :length])
        else:
            arrays = [trace.of_row(layer, name, row, length) for name in ("query", "key", "value")]
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)

    def _measure_noise(self, row: int, layer: int) -> float:
        """How far the whole operator over the row's sequence is from itself: twice the largest change where
        what it reads changes in its last place (see parity/noise.py), as attention that sharp has no closer
        result; and one rounding of a logsumexp, by which every weight of a query is off alike."""
        if (row, layer) not in self.noise:
            inputs = self._read(row, self.trace.lengths(row)[-1], layer)
            exact = _attend(self.spec, layer, inputs)
            moved = (_attend(self.spec, layer, move_inputs(inputs, seed)) for seed in range(DRAWS))
            largest = max(float(np.abs(each - exact).max()) for each in moved)
            rounding = EPSILON["float32"] * _bound_logits(self.spec, layer, inputs)
            self.noise[row, layer] = NOISE_UNITS * largest + rounding * float(np.abs(exact).max())
        return self.noise[row, layer]


def _bound_logits(spec: ModelSpec, layer: int, inputs: tuple[torch.Tensor, ...]) -> float:
    """No logit of a query and a key is larger, the rules for masked keys and for the token itself aside."""
    heads = (x.view(1, -1, spec.num_heads, spec.head_size) for x in inputs[:2])
    query, key = (float(torch.linalg.vector_norm(x, dim=3).max()) for x in heads)
    is_lsh = isinstance(spec.layers[layer], LSHAttentionSpec)  # whose keys have a length of 1 at most
    return query if is_lsh else query * key / math.sqrt(spec.head_size)


def limit_elements(precision: Precision, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """The limit of each element of an operator's output. The arithmetic is float32 whatever the type, and the
    result is rounded to it once; but where products round to TF32, its operands are off from the start."""
    exact = TOLERANCE_OF_ELEMENT * (1 + np.abs(expected))
    if precision == "float32":
        return exact
    if precision == "tf32":
        return np.full_like(exact, TOLERANCE[precision] * max(1.0, float(np.abs(expected).max())))
    limits: NDArray[np.float64] = exact + EPSILON[precision] / 2 * np.abs(expected)
    return limits


def _attend(spec: ModelSpec, layer: int, inputs: tuple[torch.Tensor, ...]) -> NDArray[np.float32]:
    """float32 [L, H*D]: the whole operator on one sequence."""
    attention = spec.layers[layer]
    mask = torch.ones(inputs[0].shape[:2], dtype=torch.int32)
    is_lsh = isinstance(attention, LSHAttentionSpec)
    reference: Callable[..., torch.Tensor] = lsh_attention_reference if is_lsh else local_attention_reference
    attended = reference(*inputs, mask, *operator_attributes(spec, attention))
    result: NDArray[np.float32] = attended[0].numpy()
    return result


def move_inputs(inputs: tuple[torch.Tensor, ...], seed: int) -> tuple[torch.Tensor, ...]:
    """Every float32 becomes the next one above or below it."""
    generator = torch.Generator().manual_seed(seed)
    signs = (torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1 for x in inputs)
    return tuple(
        torch.nextafter(x, sign * torch.inf) if x.is_floating_point() else x
        for x, sign in zip(inputs, signs, strict=True)
    )
