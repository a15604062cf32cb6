"""LSHAttentionStep: LSHAttention of a prompt, or of one new token against what was cached.

Contract (one node, domain `reformer`): query_key T [B, Q, H*D], value T [B, Q, H*D], new_buckets int32
[B, H, R, Q], past_query_key T [B, P, H*D], past_value T [B, P, H*D], past_buckets int32 [B, H, R, P], lengths
int32 [B], new_lengths int32 [B] -> output T [B, Q, H*D], present_query_key, present_value, present_buckets.
A row's output is the last rows of LSHAttention over [its cache; its new tokens], and of nothing else.
"""

from __future__ import annotations

import torch

from reformer_export.ops.lsh_attention import lsh_attention_reference
from reformer_export.ops.step_lengths import check_step_geometry, check_step_lengths, check_step_padding
from reformer_export.ops.torch_operator import define_operator


def lsh_attention_step_reference(
    query_key: torch.Tensor,
    value: torch.Tensor,
    new_buckets: torch.Tensor,
    past_query_key: torch.Tensor,
    past_value: torch.Tensor,
    past_buckets: torch.Tensor,
    lengths: torch.Tensor,
    new_lengths: torch.Tensor,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: bool,
    padding_multiple: int,
    padding_threshold: int,
    key_norm_epsilon: float,
    self_logit: float,
    dense_threshold: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The contract in plain PyTorch: the whole operator for every row.

    Args:
        query_key: T [B, Q, H*D], of the new tokens; behind a row's own ones anything.
        value: T [B, Q, H*D], of the new tokens.
        new_buckets: int32 [B, H, R, Q], of the new tokens.
        past_query_key: T [B, P, H*D], of the tokens held; behind them anything.
        past_value: T [B, P, H*D], of the tokens held.
        past_buckets: int32 [B, H, R, P], of the tokens held.
        lengths: int32 [B], tokens that each row holds.
        new_lengths: int32 [B], new tokens of each row: 0 or 1, or up to Q where it holds none.
        num_heads: H.
        chunk_length: C, tokens.
        num_chunks_before: chunks before its own that a chunk attends to.
        num_chunks_after: 0.
        is_causal: True.
        padding_multiple: M, tokens, a multiple of C.
        padding_threshold: tokens, at most dense_threshold.
        key_norm_epsilon: added to the mean square of a key before its square root.
        self_logit: of a token's own key.
        dense_threshold: tokens; up to this padded length every token attends to all before it.

    Returns:
        output T [B, Q, H*D], zero behind a row's new tokens; present_query_key, present_value and
        present_buckets, the caches with the new tokens in them.
    """
    check_step_geometry(chunk_length, num_chunks_after, is_causal, padding_multiple)
    check_step_padding(padding_threshold, "dense_threshold", dense_threshold)
    rows = check_step_lengths(lengths, new_lengths, query_key.shape[1], past_query_key.shape[1])
    present = [x.clone(memory_format=torch.contiguous_format) for x in (past_query_key, past_value)]
    present_buckets = past_buckets.clone(memory_format=torch.contiguous_format)
    output = torch.zeros_like(query_key, memory_format=torch.contiguous_format)
    for row, (held, new) in enumerate(rows):
        total = held + new
        for cache, fresh in zip(present, (query_key, value), strict=True):
            cache[row, held:total] = fresh[row, :new]
        present_buckets[row, :, :, held:total] = new_buckets[row, :, :, :new]
        if new == 0:
            continue
        attended = lsh_attention_reference(
            present[0][row : row + 1, :total],
            present[1][row : row + 1, :total],
            present_buckets[row : row + 1, :, :, :total],
            torch.ones((1, total), dtype=torch.int32, device=lengths.device),
            num_heads,
            chunk_length,
            num_chunks_before,
            num_chunks_after,
            is_causal,
            padding_multiple,
            padding_threshold,
            key_norm_epsilon,
            self_logit,
            dense_threshold,
        )
        output[row, :new] = attended[0, held:]
    return output, present[0], present[1], present_buckets


lsh_attention_step = define_operator(lsh_attention_step_reference)
"""The operator, one node to `torch.export`; arguments and results as of `lsh_attention_step_reference`."""
