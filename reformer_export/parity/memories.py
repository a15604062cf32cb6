"""How a layer's choice of product-key memories agrees with eager's, with the margin of each that differs.

A choice is a comparison of nearly equal scores now and then, as a hash is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reformer_export.parity.compare import (
    EPSILON,
    FLIP_ROUNDINGS,
    MAX_KEPT_MARGINS,
    LayerAgreement,
    Precision,
)


def compare_memories(
    layer: int,
    precision: Precision,
    got: NDArray[np.int64],
    expected: NDArray[np.int64],
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    counts: NDArray[np.bool_],
) -> LayerAgreement:
    """Compare memories int64 [N, H, k], in any order, of the N tokens that `counts` [N] says.

    A flip is a memory that eager did not choose; its margin is the gap to the worst that only eager chose, of
    scores in float64 from `queries` float32 [N, 2 * H, D], first halves first, and `keys` float32 [2 * H, D,
    n]. It is misplaced where the best memories by these scores are others.
    """
    got, expected = np.sort(got, -1), np.sort(expected, -1)
    differs = (got != expected).any(-1) & counts[:, None]
    heads, limit = got.shape[1], FLIP_ROUNDINGS * EPSILON[precision]
    margins: list[float] = []
    misplaced = 0
    for token, head in np.argwhere(differs):
        halves = [head, heads + head]
        query, key = queries[token, halves].astype(np.float64), keys[halves].astype(np.float64)
        apart, behind = _measure_flips(query, key, got[token, head], expected[token, head])
        margins += apart.tolist()
        misplaced += int((behind > limit).sum())
    margins.sort(reverse=True)
    return LayerAgreement(
        layer,
        int(counts.sum()) * heads * got.shape[2],
        len(margins),
        sum(margin > limit for margin in margins),
        max(margins, default=0.0),
        tuple(margins[:MAX_KEPT_MARGINS]),
        misplaced,
        "memories",
    )


def _measure_flips(
    query: NDArray[np.float64], keys: NDArray[np.float64], got: NDArray[np.int64], expected: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each memory of `got` that is not in `expected`: how far its score is from the worst that only
    `expected` has, and how far behind the best len(got); both relative to the vectors' lengths.

    `query` [2, D], `keys` [2, D, n]. Infinite where a memory is out of range or stands twice.
    """
    count = keys.shape[2]
    flips = np.setdiff1d(got, expected)
    if len(np.unique(got)) < len(got) or got.min() < 0 or got.max() >= count**2:
        return (np.full(max(len(flips), 1), np.inf),) * 2
    first, second = np.einsum("hd,hdn->hn", query, keys)
    scores = (first[:, None] + second[None, :]).ravel()
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(keys, axis=1)
    sizes = np.maximum(lengths[0][flips // count] + lengths[1][flips % count], 1e-30)
    best = np.partition(scores, -len(got))[-len(got)]
    missed = scores[np.setdiff1d(expected, got)].min()
    return np.abs(scores[flips] - missed) / sizes, np.maximum(best - scores[flips], 0.0) / sizes
