"""What a call of a step operator may ask for, row by row."""

from __future__ import annotations

import torch

from reformer_export.errors import InputError


def check_step_geometry(
    chunk_length: int, num_chunks_after: int, is_causal: bool, padding_multiple: int
) -> None:
    """InputError unless a later token changes nothing that this step reads, at any length."""
    if num_chunks_after != 0 or not is_causal:
        got = f"num_chunks_after {num_chunks_after}, is_causal {is_causal}"
        raise InputError("a step", got, "0 and True", "decode causal models without chunks after only")
    if padding_multiple % chunk_length != 0:
        expected = f"a multiple of chunk_length {chunk_length}"
        raise InputError(
            "a step", f"padding_multiple {padding_multiple}", expected, "take the model's own padding"
        )


def check_step_padding(padding_threshold: int, name: str, dense: int) -> None:
    """InputError unless lengths that are not padded are dense; `dense` is the attribute `name`, tokens."""
    if padding_threshold > dense:
        got = f"padding_threshold {padding_threshold}"
        raise InputError("a step", got, f"at most {name} {dense}", "take the model's own padding")


def check_step_lengths(
    lengths: torch.Tensor, new_lengths: torch.Tensor, new_tokens: int, capacity: int | None
) -> list[tuple[int, int]]:
    """Each row's (tokens held, new tokens).

    Args:
        lengths: int32 [B], tokens that each row holds.
        new_lengths: int32 [B], new tokens of each row.
        new_tokens: Q, the new tokens that the call has room for.
        capacity: P, the tokens that a row can hold; None for a ring.
    """
    rows = list(zip(lengths.tolist(), new_lengths.tolist(), strict=True))
    for row, (held, new) in enumerate(rows):
        where = f"row {row} of the batch"
        if not 0 <= new <= new_tokens:
            raise InputError(where, f"{new} new tokens", f"0 to {new_tokens}", "give `new_lengths` that fit")
        if held < 0:
            raise InputError(where, f"{held} tokens held", "0 or more", "give `lengths` that fit")
        if new > 1 and held > 0:
            fix = "give one new token at a time, or a prompt to an empty cache"
            raise InputError(where, f"{new} new tokens on {held} held ones", "1", fix)
        if capacity is not None and held + new > capacity:
            got = f"{held} + {new} tokens"
            raise InputError(where, got, f"at most {capacity}", "make the caches larger")
    return rows
