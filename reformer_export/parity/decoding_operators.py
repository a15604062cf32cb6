"""The step operators of a run of decode.onnx against the whole operators, and its caches against its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.contract import KEY_NORM_EPSILON, LOCAL_ATTENTION_STEP, LSH_ATTENTION_STEP
from reformer_export.modeling.layers import chunking
from reformer_export.ops import local_attention_reference, lsh_attention_reference
from reformer_export.parity.compare import EPSILON, TOLERANCE, Precision
from reformer_export.parity.decoding_results import Finding
from reformer_export.parity.decoding_run import OUTPUT, Trace
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
    spec, findings = session.spec, []
    for found in trace.cache_errors.values():
        what = f"cache {found.name}"
        where = ("operator", trace.case, found.row, found.length)
        findings.append(Finding(*where, found.error, 0.0, found.layer, what))
    for row in range(len(trace.case.rows)):
        for length in _chosen_lengths(spec, trace.lengths(row)):
            for layer in range(len(spec.layers)):
                findings.append(_judge_operator(spec, session.precision, trace, row, length, layer))
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


def _judge_operator(
    spec: ModelSpec, precision: Precision, trace: Trace, row: int, length: int, layer: int
) -> Finding:
    new = trace.new[row, length]
    expected = _attend(spec, trace, row, length, layer)[0, length - new :].astype(np.float64)
    got = trace.of_row(layer, OUTPUT, row, length)[0, length - new :]
    errors = np.nan_to_num(np.abs(got - expected), nan=np.inf, posinf=np.inf)
    limits = _limits(precision, expected)
    nearest = np.unravel_index((errors / limits).argmax(), errors.shape)
    is_lsh = isinstance(spec.layers[layer], LSHAttentionSpec)
    operator = LSH_ATTENTION_STEP if is_lsh else LOCAL_ATTENTION_STEP
    error, limit = float(errors[nearest]), float(limits[nearest])
    return Finding("operator", trace.case, row, length, error, limit, layer, operator.name)


def _limits(precision: Precision, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """The limit of each element of an operator's output. The arithmetic is float32 whatever the type, and the
    result is rounded to it once; but where products round to TF32, its operands are off from the start."""
    exact = TOLERANCE_OF_ELEMENT * (1 + np.abs(expected))
    if precision == "float32":
        return exact
    if precision == "tf32":
        return np.full_like(exact, TOLERANCE[precision] * max(1.0, float(np.abs(expected).max())))
    limits: NDArray[np.float64] = exact + EPSILON[precision] / 2 * np.abs(expected)
    return limits


def _attend(spec: ModelSpec, trace: Trace, row: int, length: int, layer: int) -> NDArray[Any]:
    """float32 [1, length, H*D]: the whole operator over a row's first `length` tokens."""
    attention = spec.layers[layer]
    mask = torch.ones((1, length), dtype=torch.int32)

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(trace.of_row(layer, name, row, length)))

    if isinstance(attention, LSHAttentionSpec):
        buckets = torch.from_numpy(np.ascontiguousarray(trace.attended(layer)[row : row + 1, ..., :length]))
        inputs = (read("query_key"), read("value"), buckets, mask)
        attended = lsh_attention_reference(*inputs, *chunking(spec, attention), KEY_NORM_EPSILON)
    else:
        inputs = (read("query"), read("key"), read("value"), mask)
        attended = local_attention_reference(*inputs, *chunking(spec, attention))
    result: NDArray[Any] = attended.numpy()
    return result
