"""How an LSH layer hashes when the checkpoint leaves it open: bucket counts, seeds, hashing rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from reformer_export.checkpoints.checkpoint import LoadOptions

SMALLEST_NUM_BUCKETS = 2
"""A vector and its opposite: what a layer gets that is never long enough to hash."""


@dataclass(frozen=True)
class Choice:
    """A value, and how it was come by: 'checkpoint', 'override', 'drawn per layer', 'resolved from ...'."""

    stored: Any
    used: Any
    origin: str

    def to_dict(self) -> dict[str, Any]:
        used = list(self.used) if isinstance(self.used, tuple) else self.used
        return {"checkpoint": self.stored, "used": used, "from": self.origin}


def choose_num_hashes(stored: int, options: LoadOptions) -> Choice:
    """The number of hashing rounds."""
    if options.num_hashes is not None:
        return Choice(stored, options.num_hashes, "override")
    return Choice(stored, stored, "checkpoint")


def choose_hash_seeds(stored: int | None, lsh_layers: tuple[int, ...], options: LoadOptions) -> Choice:
    """One seed for each of `lsh_layers` (indices among all layers), in that order.

    A stored seed, or one that overrides it, serves all layers, as in `transformers`. Without a stored seed
    `transformers` draws anew on every call; here layer i gets the base seed (`hash_seed`, else 0) plus i.
    """
    if stored is None:
        base = options.hash_seed or 0
        return Choice(None, tuple(base + layer for layer in lsh_layers), "drawn per layer")
    if options.hash_seed is not None:
        return Choice(stored, (options.hash_seed,) * len(lsh_layers), "override")
    return Choice(stored, (stored,) * len(lsh_layers), "checkpoint")


def choose_num_buckets(stored: int | list[int] | None, options: LoadOptions) -> Choice:
    """The factors of the bucket count; `used` is None when they are still to be resolved."""
    if options.num_buckets is not None:
        return Choice(stored, tuple(options.num_buckets), "override")
    if stored is None:
        return Choice(None, None, "unresolved")
    return Choice(stored, (stored,) if isinstance(stored, int) else tuple(stored), "checkpoint")


def resolve_num_buckets(
    padded_length: int, chunk_length: int, max_position_embeddings: int
) -> tuple[int, ...]:
    """The bucket factors that `transformers` sets when the first sequence it hashes is `padded_length` long.

    The rule is that of LSHSelfAttention._set_num_buckets (transformers 5.24, modeling_reformer.py): the
    power of two at or below 2 x chunks, in two factors above a limit. Lengths are in tokens;
    `max_position_embeddings` is the checkpoint's own.
    """
    if padded_length <= chunk_length:
        return (SMALLEST_NUM_BUCKETS,)
    exponent = (2 * (padded_length // chunk_length)).bit_length() - 1
    limit = 2 * max(math.isqrt(max_position_embeddings // chunk_length), chunk_length)
    if 2**exponent > limit:
        return (2 ** (exponent // 2), 2 ** (exponent - exponent // 2))
    return (2**exponent,)
