"""LSHAttention: attention of each token to its neighbours in the order of the hash buckets.

Contract (one node, domain `reformer`): query_key T [B, L, H*D], value T [B, L, H*D], buckets int32
[B, H, R, L], attention_mask int32 [B, L] -> output T [B, L, H*D]. Kitaev et al. 2020, section 2.2; the exact
arithmetic (virtual padding, wrap across rounds, rounded logsumexp) is that of transformers' eager Reformer.
self_logit and dense_threshold are what other Reformers do otherwise.
"""

from __future__ import annotations

import math

import torch

from reformer_export.contract import MASKED_LOGIT, check_self_logit, neighbour_shifts
from reformer_export.ops.torch_operator import define_operator
from reformer_export.spec import padded_length


def lsh_attention_reference(
    query_key: torch.Tensor,
    value: torch.Tensor,
    buckets: torch.Tensor,
    attention_mask: torch.Tensor,
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
) -> torch.Tensor:
    """The contract in plain PyTorch, for reading and for comparing; memory grows with R * L * chunks.

    Args:
        query_key: T [B, L, H*D], queries and (before normalisation) keys.
        value: T [B, L, H*D].
        buckets: int32 [B, H, R, L], any values >= 0; only their order and equality matter.
        attention_mask: int32 [B, L], 0 for tokens that nobody attends to.
        num_heads: H.
        chunk_length: C, tokens.
        num_chunks_before: chunks before its own that a chunk attends to.
        num_chunks_after: chunks after its own that a chunk attends to.
        is_causal: whether later positions are masked.
        padding_multiple: M, tokens.
        padding_threshold: tokens; up to this length there is no virtual padding.
        key_norm_epsilon: added to the mean square of a key before its square root.
        self_logit: of a token's own key, whatever its mask.
        dense_threshold: tokens; up to this padded length every token attends to all of them.

    Returns:
        T [B, L, H*D].
    """
    check_self_logit(self_logit, may_be_absent=False)
    batch, length, width = query_key.shape
    head_size = width // num_heads
    padded = padded_length(length, padding_multiple, padding_threshold)
    queries = _split_heads(query_key, num_heads)
    values = _split_heads(value, num_heads)
    mask = attention_mask[:, None, :].expand(batch, num_heads, length) != 0
    if padded <= dense_threshold:
        padded, chunk_length, num_chunks_before, num_chunks_after = length, length, 0, 0
        buckets = torch.zeros_like(buckets[:, :, :1])
    rounds = buckets.shape[2]
    queries, values = (torch.nn.functional.pad(x, (0, 0, 0, padded - length)) for x in (queries, values))
    mask = torch.nn.functional.pad(mask, (0, padded - length))
    keys = queries * torch.rsqrt(queries.square().mean(-1, keepdim=True) + key_norm_epsilon)
    keys = keys / math.sqrt(head_size)

    order = sort_positions(buckets, padded)  # [B, H, R*Lp], positions
    chunks = order.view(batch, num_heads, -1, chunk_length)
    shifts = neighbour_shifts(num_chunks_before, num_chunks_after, chunks.shape[2])
    key_positions = torch.cat([chunks.roll(-shift, 2) for shift in shifts], dim=3)
    logits = _rows(queries, chunks) @ _rows(keys, key_positions).transpose(-1, -2)
    visible = _rows(mask[..., None], key_positions)[..., 0][..., None, :]
    if is_causal:
        visible = visible & (key_positions[..., None, :] <= chunks[..., None])
    logits = torch.where(visible, logits, MASKED_LOGIT)
    logits = torch.where(key_positions[..., None, :] == chunks[..., None], self_logit, logits)
    lse = torch.logsumexp(logits, dim=-1, keepdim=True)
    output = torch.exp(logits - lse) @ _rows(values, key_positions)

    slots = torch.argsort(order.view(batch, num_heads, rounds, padded), dim=-1)
    output = _rows(output.view(batch, num_heads, rounds, padded, head_size), slots)
    lse = _rows(lse.view(batch, num_heads, rounds, padded, 1), slots)
    output = (output * torch.exp(lse - torch.logsumexp(lse, dim=2, keepdim=True))).sum(2)
    output = output[:, :, :length].transpose(1, 2).reshape(batch, length, width)
    return output.to(query_key.dtype).contiguous()


lsh_attention = define_operator(lsh_attention_reference)
"""The operator, one node to `torch.export`; arguments and result as of `lsh_attention_reference`."""


def _split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """T [B, L, H*D] -> float32 [B, H, L, D]."""
    return x.float().view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def sort_positions(buckets: torch.Tensor, padded: int) -> torch.Tensor:
    """int [B, H, R, L] -> int64 [B, H, R*padded]: positions by (round, bucket, position), virtual last."""
    virtual = torch.iinfo(torch.int32).max
    keys = torch.nn.functional.pad(buckets.long(), (0, padded - buckets.shape[-1]), value=virtual)
    return torch.argsort(keys, dim=-1, stable=True).flatten(2)


def _rows(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Pick rows of x [B, H, (R,) L, D] at positions int64 [B, H, ...] of axis -2 -> [*positions.shape, D]."""
    lead = x.shape[:-2]
    flat = positions.reshape(*lead, -1, 1).expand(*lead, -1, x.shape[-1])
    return x.gather(-2, flat).view(*positions.shape, x.shape[-1])
