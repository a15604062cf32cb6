"""LocalAttention: each chunk of tokens attends to itself and its neighbouring chunks.

Contract (one node, domain `reformer`): query, key, value T [B, L, H*D], attention_mask int32 [B, L] ->
output T [B, L, H*D]. The same geometry as LSHAttention with the identity order, one round, separate keys and
no self mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from reformer_export.ops.domain import DOMAIN, MASKED_LOGIT, VERSION, neighbour_shifts
from reformer_export.ops.native_kernels import kernels_for
from reformer_export.spec import padded_length

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


def _compute(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    num_heads: int,
    *rest: Any,
) -> torch.Tensor:
    """The reference's arguments: native where the library takes them, else the reference."""
    kernels = kernels_for(num_heads, query, key, value)
    compute = local_attention_reference if kernels is None else kernels.local_attention
    return compute(query, key, value, mask, num_heads, *rest)


local_attention = torch.library.custom_op(
    "reformer::local_attention",
    _compute,
    mutates_args=(),
    schema=torch.library.infer_schema(local_attention_reference, mutates_args=()),
)
"""The operator, one node to `torch.export`; arguments and result as of `local_attention_reference`."""


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

    # chunks [n, C]: positions. shifts [S]: the chunks of a window, counted from the query's own.
    positions = op.Range(zero_scalar, op.Squeeze(padded), one_scalar)
    num_chunks = op.Div(padded, tokens)
    chunks = op.Reshape(positions, op.Concat(num_chunks, tokens, axis=0))
    window_chunks = op.Add(op.Add(before, after), one)
    shifts = op.Sub(op.Range(zero_scalar, op.Squeeze(window_chunks), one_scalar), before)
    shifts = op.Mul(shifts, op.Cast(op.LessOrEqual(op.Abs(shifts), num_chunks), to=7))
    width = op.Mul(window_chunks, tokens)

    # Rows [B*L*H, D]; the row of (b, position, h) is (b*L + position)*H + h. A virtual position borrows the
    # last token's, masked as a key and dropped as a query, but its value is 0: where every key is masked,
    # all of a window weigh the same.
    row_shape = op.Concat(minus_one, size, axis=0)
    pads = op.Concat(op.Constant(value_ints=[0, 0, 0, 0]), extra, zero, axis=0)
    queries = op.Reshape(op.Cast(query, to=1), row_shape)
    keys = op.Reshape(op.Cast(key, to=1), row_shape)
    values = op.Reshape(op.Pad(op.Cast(value, to=1), pads), row_shape)
    shrink = op.Sqrt(op.Cast(size, to=1))
    by_batch = op.Constant(value_ints=[-1, 1, 1, 1])
    batch_index = op.Reshape(op.Range(zero_scalar, op.Squeeze(batch), one_scalar), by_batch)
    head_index = op.Range(zero_scalar, op.Squeeze(heads), one_scalar)
    head_index = op.Reshape(head_index, op.Constant(value_ints=[-1, 1, 1]))
    borrowed = op.Min(chunks, op.Sub(length, one))
    row_of = op.Add(op.Mul(op.Add(borrowed, op.Mul(batch_index, length)), heads), head_index)
    value_row_of = op.Add(op.Mul(op.Add(chunks, op.Mul(batch_index, padded)), heads), head_index)

    # A key is seen by queries whose limit is above its `seen`. Exact below position 2^21.
    step = op.Constant(value_float=2147483648.0)
    half_step = op.Constant(value_float=1073741824.0)
    never = op.Constant(value_float=9007199254740992.0)
    no_limit = op.Constant(value_float=4503599627370496.0)
    masked_logit = op.Constant(value_float=-1.0e9)
    mask = op.Cast(op.Pad(attention_mask, op.Concat(op.Constant(value_ints=[0, 0, 0]), extra, axis=0)), to=9)
    at = op.Mul(op.Cast(positions, to=1), step)
    causal = op.Cast(op.Constant(value_int=is_causal), to=9)
    limit = op.Add(op.Where(causal, at, no_limit), half_step)
    limit = op.Reshape(limit, op.Concat(one, one, num_chunks, tokens, one, axis=0))
    seen = op.Reshape(op.Where(mask, at, never), op.Concat(batch, one, num_chunks, tokens, axis=0))
    seen_shape = op.Concat(batch, one, minus_one, one, width, axis=0)
    query_rows_shape = op.Concat(batch, heads, minus_one, tokens, size, axis=0)
    key_rows_shape = op.Concat(batch, heads, minus_one, width, size, axis=0)
    output_shape = op.Concat(batch, minus_one, op.Mul(heads, size), axis=0)

    # Blocks of chunks whose logits fit the processor's cache.
    chunk_logits = op.Mul(op.Mul(op.Mul(batch, heads), tokens), width)
    block = op.Max(op.Div(op.Constant(value_ints=[524288]), chunk_logits), one)
    num_blocks = op.Squeeze(op.Div(op.Sub(op.Add(num_chunks, block), one), block))
    blocks = op.SequenceEmpty(dtype=1)
    for i in range(num_blocks):
        begin = op.Mul(i, block)
        end = op.Min(op.Add(begin, block), num_chunks)
        own = op.Range(op.Squeeze(begin), op.Squeeze(end), one_scalar)
        window = op.Mod(op.Add(op.Add(op.Unsqueeze(own, one), shifts), num_chunks), num_chunks)
        q = op.Div(op.Gather(queries, op.Slice(row_of, begin, end, two)), shrink)
        k = op.Gather(keys, op.Gather(row_of, window, axis=2))
        v = op.Gather(values, op.Gather(value_row_of, window, axis=2))
        k = op.Transpose(op.Reshape(k, key_rows_shape), perm=[0, 1, 2, 4, 3])
        logits = op.MatMul(op.Reshape(q, query_rows_shape), k)
        block_seen = op.Reshape(op.Gather(seen, window, axis=2), seen_shape)
        block_limit = op.Slice(limit, begin, end, two)
        logits = op.Max(op.Min(logits, op.Sub(block_limit, block_seen)), masked_logit)

        # exp(logit - lse) = probability * sum exp(logit - max) * exp(max - lse), with lse rounded.
        probabilities = op.Softmax(logits, axis=-1)
        greatest = op.ReduceMax(logits, minus_one)
        exp_sum = op.Reciprocal(op.ReduceMax(probabilities, minus_one))
        lse = op.Add(greatest, op.Log(exp_sum))
        scale = op.Mul(exp_sum, op.Exp(op.Sub(greatest, lse)))
        attended = op.Mul(op.MatMul(probabilities, op.Reshape(v, key_rows_shape)), scale)
        by_token = op.Transpose(attended, perm=[0, 2, 3, 1, 4])
        blocks = op.SequenceInsert(blocks, op.Reshape(by_token, output_shape))
    output = op.ConcatFromSequence(blocks, axis=1)
    return op.CastLike(op.Slice(output, zero, length, one), query)
