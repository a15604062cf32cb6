"""LocalAttention: each chunk of tokens attends to itself and its neighbouring chunks.

Contract (one node, domain `reformer`): query, key, value T [B, L, H*D], attention_mask int32 [B, L] ->
output T [B, L, H*D]. The same geometry as LSHAttention with the identity order, one round, separate keys and
no self mask.
"""

from __future__ import annotations

import math

import torch
from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from reformer_export.ops.domain import DOMAIN, MASKED_LOGIT, VERSION, neighbour_shifts, padded_length
from reformer_export.ops.native_cpu import kernels_for

_reformer = Opset(DOMAIN, VERSION)


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
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        query: T [B, L, H*D].
        key: T [B, L, H*D].
        value: T [B, L, H*D].
        attention_mask: int32 [B, L], 0 for tokens that nobody attends to.
        num_heads: H.
        chunk_length: C, tokens.
        num_chunks_before: chunks before its own that a chunk attends to, with wrap-around.
        num_chunks_after: chunks after its own that a chunk attends to, with wrap-around.
        is_causal: whether later positions are masked.
        padding_multiple: M, tokens.
        padding_threshold: tokens; up to this length there is no virtual padding.

    Returns:
        T [B, L, H*D].
    """
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
    lse = torch.logsumexp(logits, dim=-1, keepdim=True)
    output = torch.exp(logits - lse) @ values[:, :, key_positions]
    output = output.flatten(2, 3)[:, :, :length].transpose(1, 2)
    return output.reshape(batch, length, width).to(query.dtype).contiguous()


@torch.library.custom_op("reformer::local_attention", mutates_args=())
def local_attention(
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
) -> torch.Tensor:
    """One node to `torch.export`; native on the CPU where it can be. Arguments as the reference."""
    kernels = kernels_for(query, key, value)
    compute = local_attention_reference if kernels is None else kernels.local_attention
    return compute(
        query,
        key,
        value,
        attention_mask,
        num_heads,
        chunk_length,
        num_chunks_before,
        num_chunks_after,
        is_causal,
        padding_multiple,
        padding_threshold,
    )


@local_attention.register_fake
def _(query: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@script(_reformer, default_opset=op)
def LocalAttention(  # noqa: N802
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    attention_mask: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
) -> FLOAT:
    """The contract in standard ONNX operators; names and masks as in LSHAttention's body."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    minus_one = op.Constant(value_ints=[-1])
    zero_scalar = op.Constant(value_int=0)
    one_scalar = op.Constant(value_int=1)
    heads = op.Reshape(op.Constant(value_int=num_heads), one)
    chunk = op.Reshape(op.Constant(value_int=chunk_length), one)
    multiple = op.Reshape(op.Constant(value_int=padding_multiple), one)
    threshold = op.Reshape(op.Constant(value_int=padding_threshold), one)
    batch = op.Shape(query, start=0, end=1)
    length = op.Shape(query, start=1, end=2)
    size = op.Div(op.Shape(query, start=2, end=3), heads)

    # Virtual padding to Lp. A sequence that fits one chunk is one chunk of its own length.
    rounded = op.Mul(op.Div(op.Sub(op.Add(length, multiple), one), multiple), multiple)
    virtual = op.Where(op.LessOrEqual(length, threshold), length, rounded)
    dense = op.LessOrEqual(virtual, chunk)
    padded = op.Where(dense, length, virtual)
    tokens = op.Where(dense, length, chunk)
    before = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_before), one))
    after = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_after), one))
    extra = op.Sub(padded, length)

    # key_positions [n*K]: the positions that each chunk attends to, with the wrap.
    positions = op.Range(zero_scalar, op.Squeeze(padded), one_scalar)
    num_chunks = op.Div(padded, tokens)
    width = op.Mul(op.Add(op.Add(before, after), one), tokens)
    starts = op.Mul(op.Range(zero_scalar, op.Squeeze(num_chunks), one_scalar), tokens)
    shifts = op.Sub(op.Range(zero_scalar, op.Squeeze(op.Add(op.Add(before, after), one)), one_scalar), before)
    shifts = op.Mul(shifts, op.Cast(op.LessOrEqual(op.Abs(shifts), num_chunks), to=7))
    in_chunk = op.Range(zero_scalar, op.Squeeze(tokens), one_scalar)
    offsets = op.Reshape(op.Add(op.Unsqueeze(op.Mul(shifts, tokens), one), in_chunk), minus_one)
    window = op.Reshape(op.Add(op.Unsqueeze(starts, one), offsets), minus_one)
    key_positions = op.Mod(window, padded)

    # Rows [B*Lp*H, D]; the row of (b, position, h) is (b*Lp + position)*H + h.
    row_shape = op.Concat(minus_one, size, axis=0)
    pads = op.Concat(op.Constant(value_ints=[0, 0, 0, 0]), extra, zero, axis=0)
    shrink = op.Sqrt(op.Cast(size, to=1))
    queries = op.Reshape(op.Pad(op.Cast(query, to=1), pads), row_shape)
    keys = op.Reshape(op.Pad(op.Div(op.Cast(key, to=1), shrink), pads), row_shape)
    values = op.Reshape(op.Pad(op.Cast(value, to=1), pads), row_shape)
    batch_index = op.Unsqueeze(op.Range(zero_scalar, op.Squeeze(batch), one_scalar), one)
    head_index = op.Range(zero_scalar, op.Squeeze(heads), one_scalar)
    first_row = op.Unsqueeze(op.Add(op.Mul(batch_index, op.Mul(padded, heads)), head_index), two)
    key_rows = op.Add(op.Mul(key_positions, heads), first_row)
    query_rows = op.Add(op.Mul(positions, heads), first_row)
    query_rows_shape = op.Concat(batch, heads, num_chunks, tokens, size, axis=0)
    key_rows_shape = op.Concat(batch, heads, num_chunks, width, size, axis=0)
    q = op.Reshape(op.Gather(queries, query_rows), query_rows_shape)
    k = op.Reshape(op.Gather(keys, key_rows), key_rows_shape)
    v = op.Reshape(op.Gather(values, key_rows), key_rows_shape)
    logits = op.MatMul(q, op.Transpose(k, perm=[0, 1, 2, 4, 3]))

    # seen [B, 1, n, 1, K]: a key is seen by queries whose limit is above it. Exact below position 2^21.
    step = op.Constant(value_float=2147483648.0)
    half_step = op.Constant(value_float=1073741824.0)
    never = op.Constant(value_float=9007199254740992.0)
    no_limit = op.Constant(value_float=4503599627370496.0)
    mask = op.Cast(op.Pad(attention_mask, op.Concat(op.Constant(value_ints=[0, 0, 0]), extra, axis=0)), to=9)
    scaled_positions = op.Mul(op.Cast(positions, to=1), step)
    visibility = op.Where(mask, scaled_positions, never)
    seen_shape = op.Concat(batch, one, num_chunks, one, width, axis=0)
    seen = op.Reshape(op.Gather(visibility, key_positions, axis=1), seen_shape)
    causal = op.Cast(op.Constant(value_int=is_causal), to=9)
    limit = op.Add(op.Where(causal, scaled_positions, no_limit), half_step)
    limit = op.Reshape(limit, op.Concat(one, one, num_chunks, tokens, one, axis=0))
    logits = op.Max(op.Min(logits, op.Sub(limit, seen)), op.Constant(value_float=-1.0e9))

    # exp(logit - lse) = probability * sum exp(logit - max) * exp(max - lse), with lse rounded.
    probabilities = op.Softmax(logits, axis=-1)
    greatest = op.ReduceMax(logits, minus_one)
    exp_sum = op.Reciprocal(op.ReduceMax(probabilities, minus_one))
    lse = op.Add(greatest, op.Log(exp_sum))
    scale = op.Mul(exp_sum, op.Exp(op.Sub(greatest, lse)))
    attended = op.Mul(op.MatMul(probabilities, v), scale)

    by_head = op.Reshape(attended, op.Concat(batch, heads, padded, size, axis=0))
    by_token = op.Transpose(by_head, perm=[0, 2, 1, 3])
    output = op.Reshape(by_token, op.Concat(batch, padded, minus_one, axis=0))
    return op.CastLike(op.Slice(output, zero, length, one), query)
