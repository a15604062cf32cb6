"""What a report shows of a layer's hashing: how close its choices were, and what one head then sees."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.contract import KEY_NORM_EPSILON, MASKED_LOGIT, SELF_LOGIT, neighbour_shifts
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import lucidrains_attention, lucidrains_masked
from reformer_export.parity.compare import EPSILON, Hashing, split_factors
from reformer_export.spec import DTYPES, AttentionSpec, DType, ModelSpec

MARGIN_EDGES: Final = tuple(float(edge) for edge in np.logspace(-9, 0, 46))
"""Borders of the histogram's bars; margins are at most 1."""

MAX_PATTERN_TOKENS: Final = 192
"""A picture of more tokens than this has fewer pixels than pairs."""


def rounding_margin(dtype: DType, head_size: int) -> float:
    """How far rounding a vector of `head_size` elements to `dtype` moves a margin: two standard deviations.

    An element's rounding error is uniform with the standard deviation EPSILON / sqrt(12) of its size at most;
    the errors of a gap's `head_size` terms are independent and add up as squares.
    """
    return EPSILON[dtype] / math.sqrt(3 * head_size)


@dataclass(frozen=True)
class MarginHistogram:
    """How far one LSH layer's hashes were from another bucket, over one input.

    `counts` hashes have a margin (relative gap of the two best scores, the smallest over the factors) between
    `MARGIN_EDGES`; smaller ones are counted in the first bar. `roundings` is `rounding_margin` of each
    dtype, and `below` the share of tokens, 0 to 1, that have a hash with a smaller margin, which rounding may
    move.
    """

    layer: int
    counts: tuple[int, ...]
    roundings: dict[DType, float]
    below: dict[DType, float]


@dataclass(frozen=True)
class AttentionPattern:
    """One head's view of one sequence of `length` tokens, and K keys: theirs, and before them those of a
    learned memory of `num_memory_keys`.

    `buckets` [length] of the first round; `listed` [length][K]: how often a query (row) lists a key over all
    rounds, later keys of a causal model left out; `attention` [length][K]: full attention's weights of the
    same queries and normalised keys. `covered` is the share of full attention's weight that falls on listed
    keys.
    """

    layer: int
    head: int
    length: int
    buckets: tuple[int, ...]
    listed: tuple[tuple[int, ...], ...]
    attention: tuple[tuple[float, ...], ...]
    covered: float
    num_memory_keys: int = 0


def measure_margins(
    spec: ModelSpec,
    layer: int,
    query_key: NDArray[np.float32],
    rotations: NDArray[np.float32],
    attention_mask: NDArray[np.int64],
) -> MarginHistogram:
    """Margins of every hash of an LSH layer's unmasked tokens, or of all where masked ones hash as well:
    `query_key` float32 [B, K, H*D] of the heads that hash, `rotations` float32 [H, D, R, S], of which K keys
    may use the first only, `attention_mask` int64 [B, L]."""
    counts = np.ones(query_key.shape[:2], np.bool_) if spec.hashes_masked_tokens else attention_mask == 1
    factors = spec.bucket_factors(layer, query_key.shape[1])
    hashing = Hashing(spec.num_hash_heads, spec.head_size, factors, rotations, counts)
    return count_margins(layer, hashing, query_key)


def count_margins(layer: int, hashing: Hashing, query_key: NDArray[np.float32]) -> MarginHistogram:
    """Margins of every hash of the tokens that count, `query_key` float32 [B, K, H*D]."""
    vectors = query_key[hashing.counts].reshape(-1, hashing.num_heads, hashing.head_size).astype(np.float64)
    factors = hashing.factors
    used = hashing.rotations[..., : sum(factors) // 2].astype(np.float64)
    scores = np.einsum("nhd,hdrs->nhrs", vectors, used)
    norms = np.linalg.norm(used, axis=1)  # [H, R, S]
    lengths = np.linalg.norm(vectors, axis=-1)[:, :, None]
    margins = np.full(scores.shape[:3], np.inf)
    for score, norm in split_factors(factors, scores, norms[None].repeat(len(scores), 0)):
        best, second = np.moveaxis(np.argsort(score, axis=-1)[..., -2:][..., ::-1], -1, 0)
        sizes = np.maximum(lengths * (_at(norm, best) + _at(norm, second)), 1e-30)
        margins = np.minimum(margins, (_at(score, best) - _at(score, second)) / sizes)
    counts, _ = np.histogram(np.clip(margins, MARGIN_EDGES[0], 1.0), MARGIN_EDGES)
    nearest = margins.min(axis=(1, 2), initial=np.inf)
    roundings = {dtype: rounding_margin(dtype, hashing.head_size) for dtype in DTYPES}
    below = {
        dtype: float((nearest < rounding).mean()) if len(nearest) else 0.0
        for dtype, rounding in roundings.items()
    }
    return MarginHistogram(layer, tuple(int(count) for count in counts), roundings, below)


def _at(values: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    picked: NDArray[np.float64] = np.take_along_axis(values, index[..., None], -1)[..., 0]
    return picked


@dataclass(frozen=True)
class AttendingLayer:
    """How one LSH layer attends to the K keys of a sequence that eager does not pad: `is_hashed`, or densely;
    `num_memory_keys` of them are a learned memory's, which stand first."""

    layer: int
    attention: AttentionSpec
    num_heads: int
    head_size: int
    is_causal: bool
    is_hashed: bool
    num_memory_keys: int = 0
    key_norm_epsilon: float = KEY_NORM_EPSILON
    self_logit: float = SELF_LOGIT


def trace_pattern(
    spec: ModelSpec,
    layer: int,
    query_key: NDArray[np.float32],
    buckets: NDArray[np.int32],
    head: int = 0,
) -> AttentionPattern:
    """The pattern of one head of a model's LSH layer, see `trace_layer`."""
    memory = spec.num_memory_keys if isinstance(spec, LucidrainsSpec) else 0
    attending = AttendingLayer(
        layer,
        spec.layers[layer],
        spec.num_hash_heads,
        spec.head_size,
        spec.is_causal,
        spec.is_hashed(layer, len(query_key) - memory),
        memory,
    )
    if isinstance(spec, LucidrainsSpec):
        attending = attends_as_lucidrains(attending)
    return trace_layer(attending, query_key, buckets, head)


def attends_as_lucidrains(attending: AttendingLayer) -> AttendingLayer:
    """The same with what reformer-pytorch has for constants."""
    return dataclasses.replace(
        attending,
        key_norm_epsilon=lucidrains_attention.KEY_NORM_EPSILON,
        self_logit=lucidrains_masked.SELF_LOGIT,
    )


def trace_layer(
    attending: AttendingLayer, query_key: NDArray[np.float32], buckets: NDArray[np.int32], head: int = 0
) -> AttentionPattern:
    """The pattern of one head of a layer over one sequence: of the heads that hash, `query_key` float32 [K,
    H*D], as LSHAttention reads it, and `buckets` int32 [H, R, K], as LSHBuckets gives them, of a memory's
    keys and the tokens."""
    memory, keys = attending.num_memory_keys, len(query_key)
    vectors = query_key.reshape(keys, attending.num_heads, attending.head_size)[:, head].astype(np.float64)
    if attending.is_hashed:
        # Within its bucket the memory comes last, as in reformer-pytorch.
        listed = _count_listed(attending.attention, 2 * buckets[head] + (np.arange(keys) < memory), keys)
    else:
        listed = np.ones((keys, keys), np.int64)  # one dense block, without rounds
    if attending.is_causal:
        listed = np.tril(listed)
    weights = _full_attention(attending, vectors)[memory:]
    listed = listed[memory:]
    return AttentionPattern(
        attending.layer,
        head,
        keys - memory,
        tuple(int(bucket) for bucket in buckets[head, 0, memory:]),
        tuple(tuple(int(count) for count in row) for row in listed),
        tuple(tuple(round(float(weight), 6) for weight in row) for row in weights),
        float((weights * (listed > 0)).sum() / (keys - memory)),
        memory,
    )


def _count_listed(attention: AttentionSpec, buckets: NDArray[np.int32], length: int) -> NDArray[np.int64]:
    """How often each query lists each key, int64 [L, L]; buckets int32 [R, L]."""
    order = np.concatenate([np.argsort(row, kind="stable") for row in buckets])
    chunks = order.reshape(-1, attention.chunk_length)
    shifts = neighbour_shifts(attention.num_chunks_before, attention.num_chunks_after, len(chunks))
    listed = np.zeros((length, length), np.int64)
    for index, queries in enumerate(chunks):
        for shift in shifts:
            keys = chunks[(index + shift) % len(chunks)]
            listed[np.ix_(queries, keys)] += 1
    return listed


def _full_attention(attending: AttendingLayer, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [L, L] of shared query-key attention over all keys, [L, D]; a query sees itself only if it
    must."""
    size = vectors.shape[1]
    mean_square = (vectors**2).mean(1, keepdims=True)
    keys = vectors / np.sqrt(mean_square + attending.key_norm_epsilon) / np.sqrt(size)
    logits = vectors @ keys.T
    if attending.is_causal:
        logits[np.triu_indices(len(vectors), 1)] = MASKED_LOGIT
    np.fill_diagonal(logits, attending.self_logit)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised
