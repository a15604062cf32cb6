"""LSHBucketsStep: LSHBuckets of all tokens of a sequence, whose number of buckets grows with its length.

Contract (one node, domain `reformer`): query_key T [B, Q, H*D], rotations float32 [H or 1, D, R, S],
past_records int32 [B, H, R*W, P], lengths int32 [B], new_lengths int32 [B] -> new_buckets int32
[B, H, R, Q], buckets int32 [B, H, R, P], present_records int32 [B, H, R*W, P], with W words of
RECORD_COLUMNS columns each for S columns.
A sequence of L tokens is hashed by the first columns of the rotations, one for every `padding_multiple`
tokens, so that a new token may give all tokens other buckets. What is cached of a token is which columns it
would be hashed to by however many.
"""

from __future__ import annotations

import torch

from reformer_export.contract import RECORD_COLUMNS
from reformer_export.ops.lsh_buckets import rotate_heads
from reformer_export.ops.step_lengths import check_step_lengths
from reformer_export.ops.torch_operator import define_operator


def find_records(scores: torch.Tensor) -> torch.Tensor:
    """float [..., S] -> int32 [..., W]: of every column whether the argmax of (y, -y) moves there when the
    columns up to it are all: 1 for its y, 2 for its -y, 0 where the argmax stays before it.

    The lowest index wins ties, and every y is before every -y.
    """
    best = torch.full_like(scores[..., 0], -1.0)
    negative = torch.zeros_like(best, dtype=torch.bool)
    words = []
    for column in range(scores.shape[-1]):
        if column % RECORD_COLUMNS == 0:
            words.append(torch.zeros_like(best, dtype=torch.int32))
        score = scores[..., column]
        size = score.abs()
        moves = (size > best) | ((size == best) & (score >= 0) & negative)
        best, negative = torch.where(moves, size, best), torch.where(moves, score < 0, negative)
        digit = moves.int() * (1 + negative.int())
        words[-1] += digit << 2 * (column % RECORD_COLUMNS)
    return torch.stack(words, -1)


def buckets_from_records(records: torch.Tensor, columns: int) -> torch.Tensor:
    """int32 [..., W] -> int32 [...]: the bucket by the first `columns` columns: the last of them that the
    argmax moves to, behind all columns where it is its -y."""
    digits = torch.stack(
        [records[..., i // RECORD_COLUMNS] >> 2 * (i % RECORD_COLUMNS) & 3 for i in range(columns)], -1
    )
    order = torch.arange(1, columns + 1, device=records.device)
    last = ((digits != 0) * order).argmax(-1)
    is_negative = digits.gather(-1, last[..., None])[..., 0] == 2
    return (last + columns * is_negative).to(torch.int32)


def split_rounds(records: torch.Tensor, rounds: int) -> torch.Tensor:
    """int32 [H, R*W, L] -> int32 [H, R, L, W]."""
    heads, lines, length = records.shape
    return records.reshape(heads, rounds, lines // rounds, length).movedim(2, -1)


def lsh_buckets_step_reference(
    query_key: torch.Tensor,
    rotations: torch.Tensor,
    past_records: torch.Tensor,
    lengths: torch.Tensor,
    new_lengths: torch.Tensor,
    num_heads: int,
    padding_multiple: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The contract in plain PyTorch.

    Args:
        query_key: T [B, Q, H*D], of the new tokens; behind a row's own ones anything.
        rotations: float32 [H, D, R, S], or [1, D, R, S] for all heads, for the longest sequence.
        past_records: int32 [B, H, R*W, P], of the tokens held: W words of each round, one behind the other.
        lengths: int32 [B], tokens that each row holds.
        new_lengths: int32 [B], new tokens of each row: 0 or 1, or up to Q where it holds none.
        num_heads: H.
        padding_multiple: M, tokens: L tokens are hashed by the first ceil(L / M) columns, or all S.

    Returns:
        new_buckets int32 [B, H, R, Q], of each row's new tokens, and buckets int32 [B, H, R, P], of all of a
        row's tokens where it has new ones; 0 elsewhere; present_records, with the new tokens in them.
    """
    rows = check_step_lengths(lengths, new_lengths, query_key.shape[1], past_records.shape[3])
    rounds, most = rotations.shape[2:]
    rotations = rotations.expand(num_heads, -1, -1, -1)
    records = past_records.clone(memory_format=torch.contiguous_format)
    batch, capacity = records.shape[0], records.shape[3]
    new_buckets = records.new_zeros(batch, num_heads, rounds, query_key.shape[1])
    buckets = records.new_zeros(batch, num_heads, rounds, capacity)
    for row, (held, new) in enumerate(rows):
        if new == 0:
            continue
        total = held + new
        found = find_records(rotate_heads(query_key[row : row + 1, :new], rotations))[0]
        records[row, :, :, held:total] = found.movedim(-1, 2).flatten(1, 2)
        words = split_rounds(records[row, :, :, :total], rounds)
        columns = min(-(-total // padding_multiple), most)
        buckets[row, :, :, :total] = buckets_from_records(words, columns)
        new_buckets[row, :, :, :new] = buckets[row, :, :, held:total]
    return new_buckets, buckets, records


lsh_buckets_step = define_operator(lsh_buckets_step_reference)
"""The operator, one node to `torch.export`; arguments and results as of `lsh_buckets_step_reference`."""
