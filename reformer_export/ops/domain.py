"""What the three operators share: their ONNX domain and version, and the geometry of virtual padding."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "reformer"
VERSION: Final = 1
OPERATORS: Final = ("LSHBuckets", "LSHAttention", "LocalAttention")

MASKED_LOGIT: Final = -1e9
"""Logit of a masked or future key (transformers' modeling_reformer.py, mask_value_float32)."""

SELF_LOGIT: Final = -1e5
"""Logit of a token's own key in LSH attention (the same file, self_mask_value_float32)."""


def neighbour_shifts(num_chunks_before: int, num_chunks_after: int, num_chunks: int) -> list[int]:
    """For each chunk of a window, how many chunks after the query's own it lies, modulo `num_chunks`.

    Where a neighbour is farther away than there are chunks, eager's slices take the chunk itself
    (transformers' modeling_reformer.py, _look_adjacent).
    """
    shifts = range(-num_chunks_before, num_chunks_after + 1)
    return [0 if abs(shift) > num_chunks else shift for shift in shifts]
