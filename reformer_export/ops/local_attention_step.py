"""LocalAttentionStep: LocalAttention of a prompt, or of one new token against what was cached.

Contract (one node, domain `reformer`): query, key, value T [B, Q, H*D], past_key, past_value T [B, P, H*D],
lengths int32 [B], new_lengths int32 [B] -> output T [B, Q, H*D], present_key, present_value T [B, P, H*D].
The caches are rings of P = (num_chunks_before + 1) * chunk_length tokens, position p at p modulo P: all that
the last token of a causal sequence can see. A row's output is the last rows of LocalAttention over all of its
tokens, and of nothing else.
"""

from __future__ import annotations

import torch

from reformer_export.errors import InputError
from reformer_export.ops.local_attention import local_attention_reference
from reformer_export.ops.step_lengths import check_step_geometry, check_step_lengths, check_step_padding
from reformer_export.ops.torch_operator import define_operator


def local_attention_step_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
    lengths: torch.Tensor,
    new_lengths: torch.Tensor,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: bool,
    padding_multiple: int,
    padding_threshold: int,
    self_logit: float,
    wraps: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The contract in plain PyTorch: the whole operator for every row, over what its last chunk sees.

    Args:
        query: T [B, Q, H*D], of the new tokens; behind a row's own ones anything.
        key: T [B, Q, H*D], of the new tokens.
        value: T [B, Q, H*D], of the new tokens.
        past_key: T [B, P, H*D], the last P tokens, position p at p modulo P.
        past_value: T [B, P, H*D], likewise.
        lengths: int32 [B], tokens that each row has taken so far; the ring holds the last P of them.
        new_lengths: int32 [B], new tokens of each row: 0 or 1, or up to Q where it has taken none.
        num_heads: H.
        chunk_length: C, tokens.
        num_chunks_before: chunks before its own that a chunk attends to.
        num_chunks_after: 0.
        is_causal: True.
        padding_multiple: M, tokens, a multiple of C.
        padding_threshold: tokens, at most C.
        self_logit: of a token's own key; NO_SELF_LOGIT: as of any other key.
        wraps: whether neighbours before the first chunk are the last ones; else there are none.

    Returns:
        output T [B, Q, H*D], zero behind a row's new tokens; present_key and present_value, the rings with
        the new tokens in them.
    """
    check_step_geometry(chunk_length, num_chunks_after, is_causal, padding_multiple)
    check_step_padding(padding_threshold, "chunk_length", chunk_length)
    capacity = (num_chunks_before + 1) * chunk_length
    if past_key.shape[1] != capacity:
        raise InputError("the ring of keys", f"{past_key.shape[1]} tokens", capacity, "make it as long")
    rows = check_step_lengths(lengths, new_lengths, query.shape[1], None)
    present = [x.clone(memory_format=torch.contiguous_format) for x in (past_key, past_value)]
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for row, (held, new) in enumerate(rows):
        if new == 0:
            continue
        # Chunks that the last one does not see change nothing but the number of chunks, and so the wrap,
        # which is not reached where there are any.
        start = max(0, held // chunk_length - num_chunks_before) * chunk_length
        slots = torch.arange(start, held, device=lengths.device) % capacity
        sequence = [
            torch.cat([x[row, slots], y[row, :new]]) for x, y in zip(present, (key, value), strict=True)
        ]
        queries = sequence[0].new_zeros(sequence[0].shape)
        queries[held - start :] = query[row, :new]
        attended = local_attention_reference(
            queries[None],
            sequence[0][None],
            sequence[1][None],
            torch.ones((1, len(queries)), dtype=torch.int32, device=lengths.device),
            num_heads,
            chunk_length,
            num_chunks_before,
            num_chunks_after,
            is_causal,
            padding_multiple,
            padding_threshold,
            self_logit,
            wraps,
        )
        output[row, :new] = attended[0, held - start :]
        kept = range(max(0, new - capacity), new)
        slots = (torch.tensor(kept, device=lengths.device) + held) % capacity
        for ring, fresh in zip(present, (key, value), strict=True):
            ring[row, slots] = fresh[row, kept.start : new]
    return output, present[0], present[1]


local_attention_step = define_operator(local_attention_step_reference)
"""The operator, one node to `torch.export`; arguments and results as of `local_attention_step_reference`."""
