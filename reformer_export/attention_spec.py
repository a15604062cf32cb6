"""The attention layers of a ModelSpec, and what a size may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from reformer_export.errors import SpecError

MAX_NUM_BUCKETS: Final = 2**20
"""Buckets are int32 and sort keys are bucket * padded length + position in int64: far from overflow."""

MAX_DIMENSION: Final = 2**24
"""Above any real model; keeps products of sizes read from a file away from overflow."""

MAX_NUM_HASHES: Final = 1024
"""Rounds of hashing; the paper uses up to 16, and the output of every round is held in memory."""

MAX_WINDOW_CHUNKS: Final = 1024
"""Chunks that one chunk attends to, itself included."""

MEND_CONFIG: Final = "mend it in the checkpoint's config.json"


def check_size(name: str, value: object, minimum: int = 1, maximum: int = MAX_DIMENSION) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise SpecError(name, repr(value), f"an integer from {minimum} to {maximum}", MEND_CONFIG)


@dataclass(frozen=True)
class LSHAttentionSpec:
    """One LSH self-attention layer (Kitaev et al. 2020, section 2).

    `num_buckets` holds the factors of the bucket count, each even, and none where the count grows with the
    length, as reformer-pytorch's does; `hash_seed` seeds the draw of the random rotations
    [num_heads, head_size, num_hashes, sum(num_buckets) / 2].
    """

    chunk_length: int
    num_chunks_before: int
    num_chunks_after: int
    num_hashes: int
    num_buckets: tuple[int, ...]
    hash_seed: int

    def __post_init__(self) -> None:
        check_size("lsh_attn_chunk_length", self.chunk_length)
        check_size("lsh_num_chunks_before", self.num_chunks_before, 0, MAX_WINDOW_CHUNKS // 2 - 1)
        check_size("lsh_num_chunks_after", self.num_chunks_after, 0, MAX_WINDOW_CHUNKS // 2)
        check_size("num_hashes", self.num_hashes, 1, MAX_NUM_HASHES)
        for factor in self.num_buckets:
            check_size("num_buckets", factor, 2)
            if factor % 2:
                raise SpecError(
                    "num_buckets",
                    "x".join(map(str, self.num_buckets)),
                    "even numbers (each bucket has its opposite)",
                    "give an even number, e.g. `num_buckets` 64 or 8x16",
                )
        if math.prod(self.num_buckets) > MAX_NUM_BUCKETS:
            raise SpecError(
                "num_buckets",
                math.prod(self.num_buckets),
                f"at most {MAX_NUM_BUCKETS} in all",
                "use fewer buckets",
            )
        if not (isinstance(self.hash_seed, int) and -(2**63) <= self.hash_seed < 2**64):
            raise SpecError("hash_seed", self.hash_seed, "a 64-bit integer", "give another `hash_seed`")


@dataclass(frozen=True)
class LocalAttentionSpec:
    """One local self-attention layer: each chunk attends to itself and its neighbours."""

    chunk_length: int
    num_chunks_before: int
    num_chunks_after: int

    def __post_init__(self) -> None:
        check_size("local_attn_chunk_length", self.chunk_length)
        check_size("local_num_chunks_before", self.num_chunks_before, 0, MAX_WINDOW_CHUNKS // 2 - 1)
        check_size("local_num_chunks_after", self.num_chunks_after, 0, MAX_WINDOW_CHUNKS // 2)


AttentionSpec = LSHAttentionSpec | LocalAttentionSpec
