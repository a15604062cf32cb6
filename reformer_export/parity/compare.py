"""Two runs -> numbers: output error, and bucket agreement with the margin of every flip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from reformer_export.spec import DType, ModelSpec

Precision = DType | Literal["tf32"]
"""What the arithmetic is judged by: the artifact's dtype, or TF32 where its products round to that."""

EPSILON: Final[dict[Precision, float]] = {
    "float32": 2.0**-23,
    "tf32": 2.0**-10,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
"""Spacing of the precision's numbers at 1. TF32 has float16's 10 bits of mantissa."""

TOLERANCE: Final[dict[Precision, float]] = {
    "float32": 5e-5,
    "tf32": 1e-2,
    "float16": 1e-2,
    "bfloat16": 6e-2,
}
"""Largest allowed output error with pinned buckets, absolute for outputs up to 1 and relative to the largest
output above that. TF32's is float16's: docs/parity.md derives it."""

NAMES: Final[dict[Precision, str]] = {"tf32": "TF32"}
"""How a precision is written, where not as it is."""

FLIP_ROUNDINGS: Final = 16
"""A flip is explained when the two scores' gap, relative to the vectors' norms, is below so many roundings
of the precision: what the layers before may have added up to."""

MAX_KEPT_MARGINS: Final = 1000


@dataclass(frozen=True)
class GivenTolerance:
    """What a user allows in place of the precision's tolerance: an error of outputs up to `atol` + `rtol` x
    the largest expected output, as numpy's allclose with that for every element."""

    atol: float = 0.0
    rtol: float = 0.0

    def limit(self, greatest: float) -> float:
        """The allowed error of outputs whose largest magnitude is `greatest`; above 0, so that an error is a
        share of it."""
        return max(self.atol + self.rtol * greatest, float(np.finfo(np.float64).tiny))

    def __str__(self) -> str:
        return f"atol {self.atol:g} + rtol {self.rtol:g} x the largest expected output"


@dataclass(frozen=True)
class LayerAgreement:
    """How one LSH layer's buckets agree with eager's.

    `hashed` counts token hashes (batch x heads x rounds x unmasked tokens); `flips` those that differ;
    `unexplained` the flips with a margin above the precision's rounding; `worst_margin` the largest relative
    margin among the flips; `flip_margins` the largest `MAX_KEPT_MARGINS` of them, largest first.
    `misplaced`: the unexplained flips into a bucket that is not even the one of the vector that was hashed:
    there the hash is wrong, elsewhere what it was given. Of product-key memories the same of what queries
    choose (memories.py).
    """

    layer: int
    hashed: int
    flips: int
    unexplained: int
    worst_margin: float
    flip_margins: tuple[float, ...] = ()
    misplaced: int = 0
    kind: Literal["hashes", "memories"] = "hashes"


@dataclass(frozen=True)
class OutputDifference:
    """Absolute differences of two runs' outputs: the `worst` element's, the `median` over tokens of each
    token's worst (over rows, for outputs without tokens), and the `greatest` magnitude expected."""

    worst: float
    median: float
    greatest: float


def compare_outputs(
    got: dict[str, NDArray[np.float32]],
    expected: dict[str, NDArray[np.float32]],
    attention_mask: NDArray[np.int64],
) -> OutputDifference:
    """The differences over every unmasked element of every output.

    Outputs with the mask's length on axis 1 are compared where the mask is 1; others everywhere. NaN,
    infinity and another shape count as infinite error.
    """
    by_token = [np.zeros(0)]
    greatest = 0.0
    for name, reference in expected.items():
        value = got[name]
        if value.shape != reference.shape:
            return OutputDifference(float("inf"), float("inf"), greatest)
        if reference.shape[:2] == attention_mask.shape and _per_token(name, reference):
            value, reference = value[attention_mask == 1], reference[attention_mask == 1]
        difference = _absolute_difference(value, reference)
        by_token.append(difference.max(axis=tuple(range(1, difference.ndim)), initial=0.0))
        greatest = max(greatest, float(np.abs(reference).max(initial=0.0)))
    differences = np.concatenate(by_token)
    median = float(np.median(differences)) if differences.size else 0.0
    return OutputDifference(float(differences.max(initial=0.0)), median, greatest)


def _per_token(name: str, reference: NDArray[np.float32]) -> bool:
    """Whether axis 1 is the sequence: [B, L, ...], unlike a classifier's logits [B, num_labels]."""
    return reference.ndim == 3 or name in ("start_logits", "end_logits")


def greatest_magnitude(values: NDArray[Any]) -> float:
    """Of all elements; infinite where there is a NaN."""
    return float(np.nan_to_num(np.abs(values), nan=np.inf, posinf=np.inf).max(initial=0.0))


def greatest_difference(got: NDArray[Any], expected: NDArray[Any], judged: NDArray[np.bool_]) -> float:
    """The largest absolute difference where `judged`; infinite for NaN, infinity and another size.

    `expected` and `judged` have one shape, `got` as many elements.
    """
    if got.size != expected.size:
        return float("inf")
    return float(_absolute_difference(got.reshape(expected.shape)[judged], expected[judged]).max(initial=0.0))


def _absolute_difference(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = np.abs(got.astype(np.float64) - expected)
    return np.nan_to_num(difference, nan=np.inf, posinf=np.inf)


def describe_rule(precision: Precision, given: GivenTolerance | None = None) -> str:
    """What errors and flips are judged by, a sentence for people: the precision's rule, but for a tolerance
    that was `given`."""
    gap = FLIP_ROUNDINGS * EPSILON[precision]
    limit = (
        f"The tolerance of {NAMES.get(precision, precision)} is {TOLERANCE[precision]:.0e}, times the "
        "largest output where that is above 1"
        if given is None
        else f"The tolerance is the given one, {given}"
    )
    return f"{limit}; a flip is explained by rounding up to a margin of {gap:.1e}"


def tolerance(precision: Precision, greatest: float) -> float:
    """The allowed error of outputs whose largest magnitude is `greatest`."""
    return TOLERANCE[precision] * max(1.0, greatest)


@dataclass(frozen=True)
class Hashing:
    """How a layer hashes the K tokens of an input.

    `factors` of the bucket count; `rotations`: float32 [H, D, R, S], of which the first are used; `counts`:
    bool [B, K], whose buckets count.
    """

    num_heads: int
    head_size: int
    factors: tuple[int, ...]
    rotations: NDArray[np.float32]
    counts: NDArray[np.bool_]


def compare_buckets(
    layer: int,
    spec: ModelSpec,
    precision: Precision,
    got: NDArray[np.int32],
    expected: NDArray[np.int32],
    query_key: NDArray[np.float32],
    rotations: NDArray[np.float32],
    attention_mask: NDArray[np.int64],
) -> LayerAgreement:
    """Compare int32 [B, H, R, L] buckets of a model's layer, see `compare_hashes`."""
    if not spec.is_hashed(layer, attention_mask.shape[1]):
        return LayerAgreement(layer, 0, 0, 0, 0.0)  # dense
    factors, counts = spec.bucket_factors(layer, got.shape[3]), hashed_tokens(spec, attention_mask, got)
    hashing = Hashing(spec.num_hash_heads, spec.head_size, factors, rotations, counts)
    return compare_hashes(layer, hashing, precision, got, expected, query_key)


def compare_hashes(
    layer: int,
    hashing: Hashing,
    precision: Precision,
    got: NDArray[np.int32],
    expected: NDArray[np.int32],
    query_key: NDArray[np.float32],
) -> LayerAgreement:
    """Compare int32 [B, H, R, K] buckets; a flip's margin is computed in float64 from `query_key` [B, K,
    H*D]."""
    hashed = int(hashing.counts.sum()) * got.shape[1] * got.shape[2]
    used = sum(hashing.factors) // 2
    differs = (got != expected) & hashing.counts[:, None, None, :]
    flips = [
        measure_flip(
            hashing.factors,
            query_key[b, position].reshape(hashing.num_heads, hashing.head_size)[h].astype(np.float64),
            hashing.rotations[h, :, r, :used].astype(np.float64),
            int(got[b, h, r, position]),
            int(expected[b, h, r, position]),
        )
        for b, h, r, position in np.argwhere(differs)
    ]
    limit = FLIP_ROUNDINGS * EPSILON[precision]
    margins = sorted((margin for margin, _ in flips), reverse=True)
    return LayerAgreement(
        layer,
        hashed,
        len(margins),
        sum(margin > limit for margin in margins),
        max(margins, default=0.0),
        tuple(margins[:MAX_KEPT_MARGINS]),
        sum(behind > limit for _, behind in flips),
    )


def hashed_tokens(
    spec: ModelSpec, attention_mask: NDArray[np.int64], buckets: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Whose buckets count, bool [B, L] for `buckets` [B, H, R, L]: those of unmasked tokens, or of all where
    masked and padded tokens hash as well."""
    if spec.hashes_masked_tokens:
        return np.ones((len(buckets), buckets.shape[3]), np.bool_)
    counts: NDArray[np.bool_] = attention_mask == 1
    return counts


def measure_flip(
    factors: tuple[int, ...],
    vector: NDArray[np.float64],
    rotations: NDArray[np.float64],
    got: int,
    expected: int,
) -> tuple[float, float]:
    """How far apart two buckets of one token are: largest relative gap between their scores, over the factors
    that differ, and the same between the best bucket and `got`, 0 where that is the best.

    `vector` [D], `rotations` [D, S]. Infinite when a bucket is out of range.
    """
    scores, norms = vector @ rotations, np.linalg.norm(rotations, axis=0)
    length, apart, behind = float(np.linalg.norm(vector)), 0.0, 0.0
    for factor, (score, norm) in zip(factors, split_factors(factors, scores, norms), strict=True):
        a, b = got % factor, expected % factor
        got, expected = got // factor, expected // factor
        apart = max(apart, _gap_between(a, b, score, norm, length))
        behind = max(behind, _gap_between(a, int(score.argmax()), score, norm, length))
    return (apart, behind) if got == expected == 0 else (float("inf"), float("inf"))


def _gap_between(
    a: int, b: int, score: NDArray[np.float64], norm: NDArray[np.float64], length: float
) -> float:
    """How far apart the scores [f] of two buckets are, relative to the vectors' lengths."""
    return float(abs(score[a] - score[b]) / max(length * (norm[a] + norm[b]), 1e-30))


def split_factors(
    factors: tuple[int, ...], scores: NDArray[np.float64], norms: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(scores, norms) [..., f] of each factor's buckets, from those of the rotations, [..., S]."""
    first = 0
    for factor in factors:
        half = slice(first, first + factor // 2)
        first = half.stop
        score, norm = scores[..., half], norms[..., half]
        yield np.concatenate([score, -score], -1), np.concatenate([norm, norm], -1)
