"""LocalAttention: each chunk of tokens attends to itself and its neighbouring chunks.

Contract (one node, domain `reformer`): query, key, value T [B, L, H*D], attention_mask int32 [B, L] ->
output T [B, L, H*D]. The same geometry as LSHAttention with the identity order, one round and separate keys.
"""

from __future__ import annotations

import math

import torch

from reformer_export.contract import MASKED_LOGIT, NO_SELF_LOGIT, check_self_logit, neighbour_shifts
from reformer_export.ops.torch_operator import define_operator
from reformer_export.spec import padded_length


def local_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: bool,
    padding_multiple: int,
    padding_threshold: int,
    self_logit: float,
    wraps: bool,
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        query: T [B, L, H*D].
        key: T [B, L, H*D].
        value: T [B, L, H*D].
        attention_mask: int32 [B, L], 0 for tokens that nobody attends to.
        num_heads: H.
        chunk_length: C, tokens.
        num_chunks_before: chunks before its own that a chunk attends to.
        num_chunks_after: chunks after its own that a chunk attends to.
        is_causal: whether later positions are masked.
        padding_multiple: M, tokens.
        padding_threshold: tokens; up to this length there is no virtual padding.
        self_logit: of a token's own key, whatever its mask; NO_SELF_LOGIT: as of any other key.
        wraps: whether neighbours beyond one end are the chunks of the other end; else there are none.

    Returns:
        T [B, L, H*D].
    """
    check_self_logit(self_logit, may_be_absent=True)
    batch, length, width = query.shape
    padded = padded_length(length, padding_multiple, padding_threshold)
    if padded <= chunk_length:
        padded, chunk_length, num_chunks_before, num_chunks_after = length, length, 0, 0
    extra = padded - length
    queries, keys, values = (
        torch.nn.functional.pad(x.float(), (0, 0, 0, extra))
        .view(batch, padded, num_heads, -1)
        .transpose(1, 2)
        for x in (query, key, value)
    )
    mask = torch.nn.functional.pad(attention_mask, (0, extra)) != 0
    chunks = torch.arange(padded, device=query.device).view(-1, chunk_length)
    shifts = neighbour_shifts(num_chunks_before, num_chunks_after, len(chunks))
    key_positions = torch.cat([chunks.roll(-shift, 0) for shift in shifts], dim=1)  # [n, K]
    logits = queries[:, :, chunks] @ keys[:, :, key_positions].transpose(-1, -2)
    logits = logits / math.sqrt(width // num_heads)
    visible = mask[:, None, key_positions][..., None, :]
    if is_causal:
        visible = visible & (key_positions[:, None, :] <= chunks[:, :, None])
    logits = torch.where(visible, logits, MASKED_LOGIT)
    if self_logit != NO_SELF_LOGIT:
        logits = torch.where(key_positions[:, None, :] == chunks[:, :, None], self_logit, logits)
    if not wraps:
        exists = _inside(len(chunks), num_chunks_before, num_chunks_after)
        exists = exists.repeat_interleave(chunk_length, 1).to(query.device)
        logits = torch.where(exists[:, None, :], logits, -math.inf)
    lse = torch.logsumexp(logits, dim=-1, keepdim=True)
    output = torch.exp(logits - lse) @ values[:, :, key_positions]
    output = output.flatten(2, 3)[:, :, :length].transpose(1, 2)
    return output.reshape(batch, length, width).to(query.dtype).contiguous()


def _inside(num_chunks: int, num_chunks_before: int, num_chunks_after: int) -> torch.Tensor:
    """bool [n, S]: whether each chunk's neighbours, in the order of a window, are between both ends."""
    neighbours = torch.arange(num_chunks)[:, None] + torch.arange(-num_chunks_before, num_chunks_after + 1)
    return (neighbours >= 0) & (neighbours < num_chunks)


local_attention = define_operator(local_attention_reference)
"""The operator, one node to `torch.export`; arguments and result as of `local_attention_reference`."""
