"""LSHAttention: attention of each token to its neighbours in the order of the hash buckets.

Contract (one node, domain `reformer`): query_key T [B, L, H*D], value T [B, L, H*D], buckets int32
[B, H, R, L], attention_mask int32 [B, L] -> output T [B, L, H*D]. Kitaev et al. 2020, section 2.2; the exact
arithmetic (virtual padding, wrap across rounds, rounded logsumexp) is that of transformers' eager Reformer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from reformer_export.ops.domain import DOMAIN, MASKED_LOGIT, SELF_LOGIT, VERSION, neighbour_shifts
from reformer_export.ops.native_kernels import kernels_for
from reformer_export.spec import padded_length

_reformer = Opset(DOMAIN, VERSION)


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

    Returns:
        T [B, L, H*D].
    """
    batch, length, width = query_key.shape
    head_size = width // num_heads
    padded = padded_length(length, padding_multiple, padding_threshold)
    queries = _split_heads(query_key, num_heads)
    values = _split_heads(value, num_heads)
    mask = attention_mask[:, None, :].expand(batch, num_heads, length) != 0
    if padded <= chunk_length:
        padded, chunk_length, num_chunks_before, num_chunks_after = length, length, 0, 0
        buckets = torch.zeros_like(buckets[:, :, :1])
    rounds = buckets.shape[2]
    queries, values = (torch.nn.functional.pad(x, (0, 0, 0, padded - length)) for x in (queries, values))
    mask = torch.nn.functional.pad(mask, (0, padded - length))
    keys = queries * torch.rsqrt(queries.square().mean(-1, keepdim=True) + key_norm_epsilon)
    keys = keys / math.sqrt(head_size)

    order = _sorted_positions(buckets, padded)  # [B, H, R*Lp], positions
    chunks = order.view(batch, num_heads, -1, chunk_length)
    shifts = neighbour_shifts(num_chunks_before, num_chunks_after, chunks.shape[2])
    key_positions = torch.cat([chunks.roll(-shift, 2) for shift in shifts], dim=3)
    logits = _rows(queries, chunks) @ _rows(keys, key_positions).transpose(-1, -2)
    visible = _rows(mask[..., None], key_positions)[..., 0][..., None, :]
    if is_causal:
        visible = visible & (key_positions[..., None, :] <= chunks[..., None])
    logits = torch.where(visible, logits, MASKED_LOGIT)
    logits = torch.where(key_positions[..., None, :] == chunks[..., None], SELF_LOGIT, logits)
    lse = torch.logsumexp(logits, dim=-1, keepdim=True)
    output = torch.exp(logits - lse) @ _rows(values, key_positions)

    slots = torch.argsort(order.view(batch, num_heads, rounds, padded), dim=-1)
    output = _rows(output.view(batch, num_heads, rounds, padded, head_size), slots)
    lse = _rows(lse.view(batch, num_heads, rounds, padded, 1), slots)
    output = (output * torch.exp(lse - torch.logsumexp(lse, dim=2, keepdim=True))).sum(2)
    output = output[:, :, :length].transpose(1, 2).reshape(batch, length, width)
    return output.to(query_key.dtype).contiguous()


def _compute(
    query_key: torch.Tensor,
    value: torch.Tensor,
    buckets: torch.Tensor,
    mask: torch.Tensor,
    num_heads: int,
    *rest: Any,
) -> torch.Tensor:
    """The reference's arguments: native where the library takes them, else the reference."""
    kernels = kernels_for(num_heads, query_key, value)
    compute = lsh_attention_reference if kernels is None else kernels.lsh_attention
    return compute(query_key, value, buckets, mask, num_heads, *rest)


lsh_attention = torch.library.custom_op(
    "reformer::lsh_attention",
    _compute,
    mutates_args=(),
    schema=torch.library.infer_schema(lsh_attention_reference, mutates_args=()),
)
"""The operator, one node to `torch.export`; arguments and result as of `lsh_attention_reference`."""


@lsh_attention.register_fake
def _(query_key: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(query_key, memory_format=torch.contiguous_format)


def _split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """T [B, L, H*D] -> float32 [B, H, L, D]."""
    return x.float().view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def _sorted_positions(buckets: torch.Tensor, padded: int) -> torch.Tensor:
    """int [B, H, R, L] -> int64 [B, H, R*padded]: positions by (round, bucket, position), virtual last."""
    virtual = torch.iinfo(torch.int32).max
    keys = torch.nn.functional.pad(buckets.long(), (0, padded - buckets.shape[-1]), value=virtual)
    return torch.argsort(keys, dim=-1, stable=True).flatten(2)


def _rows(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Pick rows of x [B, H, (R,) L, D] at positions int64 [B, H, ...] of axis -2 -> [*positions.shape, D]."""
    lead = x.shape[:-2]
    flat = positions.reshape(*lead, -1, 1).expand(*lead, -1, x.shape[-1])
    return x.gather(-2, flat).view(*positions.shape, x.shape[-1])


@script(_reformer, default_opset=op)
def LSHAttention(  # noqa: N802
    query_key: FLOAT,
    value: FLOAT,
    buckets: INT32,
    attention_mask: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    key_norm_epsilon: float,
) -> FLOAT:
    """The contract in standard ONNX operators: one round and one block of chunks at a time, so that memory
    grows with L, not R * L, and the logits stay in the cache.

    A round's windows are gathered, scored, and merged into a running (best, weight, total) per token: the
    running forms of max(lse_r), sum exp(lse_r - best) and sum exp(lse_r - best) * o_r. Masks are Min and Max
    with a difference of positions (in units of 2^31, so that one step outweighs any logit), since ONNX
    Runtime's Where takes ten times as long.
    """
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
    batch = op.Shape(query_key, start=0, end=1)
    length = op.Shape(query_key, start=1, end=2)
    size = op.Div(op.Shape(query_key, start=2, end=3), heads)

    # Virtual padding to Lp. A sequence that fits one chunk is one chunk of its own length, in one round.
    rounded = op.Mul(op.Div(op.Sub(op.Add(length, multiple), one), multiple), multiple)
    virtual = op.Where(op.LessOrEqual(length, threshold), length, rounded)
    dense = op.LessOrEqual(virtual, chunk)
    padded = op.Where(dense, length, virtual)
    tokens = op.Where(dense, length, chunk)
    rounds = op.Where(dense, one, op.Shape(buckets, start=2, end=3))
    before = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_before), one))
    after = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_after), one))
    extra = op.Sub(padded, length)

    # order [B, H, R*n, C]: positions by (round, bucket, position). Unique int64 keys, virtual positions last.
    hashed = op.Cast(op.Slice(buckets, zero, rounds, two), to=7)
    ranks = op.Mul(hashed, op.Where(dense, zero, one))
    virtual_rank = op.Constant(value_int=2147483647)
    ranks = op.Pad(
        ranks, op.Concat(op.Constant(value_ints=[0, 0, 0, 0, 0, 0, 0]), extra, axis=0), virtual_rank
    )
    positions = op.Range(zero_scalar, op.Squeeze(padded), one_scalar)
    _, sorted_positions = op.TopK(
        op.Add(op.Mul(ranks, padded), positions), padded, axis=-1, largest=0, sorted=1
    )
    num_chunks = op.Div(padded, tokens)
    all_chunks = op.Mul(rounds, num_chunks)
    order = op.Reshape(sorted_positions, op.Concat(batch, heads, all_chunks, tokens, axis=0))

    # shifts [S]: the chunks of a window, counted from the query's own.
    window_chunks = op.Add(op.Add(before, after), one)
    shifts = op.Sub(op.Range(zero_scalar, op.Squeeze(window_chunks), one_scalar), before)
    shifts = op.Mul(shifts, op.Cast(op.LessOrEqual(op.Abs(shifts), all_chunks), to=7))
    width = op.Mul(window_chunks, tokens)

    # Rows [B*L*H, D]; the row of (b, position, h) is (b*L + position)*H + h. A virtual position borrows the
    # last token's: as a key it is masked, as a query it is dropped.
    row_shape = op.Concat(minus_one, size, axis=0)
    queries = op.Reshape(op.Cast(query_key, to=1), row_shape)
    values = op.Reshape(op.Cast(value, to=1), row_shape)
    mean_square = op.ReduceMean(op.Mul(queries, queries), minus_one)
    epsilon = op.Constant(value_float=key_norm_epsilon)
    keys = op.Div(queries, op.Sqrt(op.Mul(op.Add(mean_square, epsilon), op.Cast(size, to=1))))
    batch_index = op.Reshape(
        op.Range(zero_scalar, op.Squeeze(batch), one_scalar), op.Constant(value_ints=[-1, 1, 1])
    )
    head_index = op.Unsqueeze(op.Range(zero_scalar, op.Squeeze(heads), one_scalar), one)
    first_row = op.Unsqueeze(op.Add(op.Mul(batch_index, op.Mul(length, heads)), head_index), minus_one)
    first_slot = op.Mul(op.Add(op.Mul(batch_index, heads), head_index), padded)
    first_token = op.Unsqueeze(op.Mul(batch_index, padded), minus_one)
    row_of = op.Add(op.Mul(op.Min(order, op.Sub(length, one)), heads), first_row)
    slot_index = op.Expand(positions, op.Concat(batch, heads, padded, axis=0))

    # A key is seen by queries whose limit is above its `seen`. Positions are exact below 2^21.
    step = op.Constant(value_float=2147483648.0)
    half_step = op.Constant(value_float=1073741824.0)
    never = op.Constant(value_float=9007199254740992.0)
    no_limit = op.Constant(value_float=4503599627370496.0)
    mask = op.Cast(op.Pad(attention_mask, op.Concat(op.Constant(value_ints=[0, 0, 0]), extra, axis=0)), to=9)
    visibility = op.Reshape(op.Where(mask, op.Mul(op.Cast(positions, to=1), step), never), minus_one)
    causal = op.Cast(op.Constant(value_int=is_causal), to=9)
    self_logit = op.Constant(value_float=-1.0e5)
    at = op.Mul(op.Cast(order, to=1), step)
    seen = op.Gather(visibility, op.Add(order, first_token))
    limit = op.Add(op.Where(causal, at, no_limit), half_step)

    query_shape = op.Concat(batch, heads, minus_one, tokens, one, axis=0)
    key_shape = op.Concat(batch, heads, minus_one, one, width, axis=0)
    query_rows_shape = op.Concat(batch, heads, minus_one, tokens, size, axis=0)
    key_rows_shape = op.Concat(batch, heads, minus_one, width, size, axis=0)
    column = op.Constant(value_ints=[-1, 1])

    # Blocks of chunks whose logits fit the processor's cache.
    chunk_logits = op.Mul(op.Mul(op.Mul(batch, heads), tokens), width)
    block = op.Max(op.Div(op.Constant(value_ints=[524288]), chunk_logits), one)
    num_blocks = op.Squeeze(op.Div(op.Sub(op.Add(num_chunks, block), one), block))

    total = op.Mul(values, op.Constant(value_float=0.0))
    weight = op.Mul(mean_square, op.Constant(value_float=0.0))
    best = op.Sub(weight, op.Constant(value_float=3.0e38))
    num_rounds = op.Squeeze(rounds)
    for r in range(num_rounds):
        first = op.Mul(r, num_chunks)
        attended_blocks = op.SequenceEmpty(dtype=1)
        lse_blocks = op.SequenceEmpty(dtype=1)
        for i in range(num_blocks):
            begin = op.Add(op.Mul(i, block), first)
            end = op.Min(op.Add(begin, block), op.Add(first, num_chunks))
            own = op.Range(op.Squeeze(begin), op.Squeeze(end), one_scalar)
            window = op.Mod(op.Add(op.Add(op.Unsqueeze(own, one), shifts), all_chunks), all_chunks)
            key_rows = op.Gather(row_of, window, axis=2)
            q = op.Reshape(op.Gather(queries, op.Slice(row_of, begin, end, two)), query_rows_shape)
            k = op.Reshape(op.Gather(keys, key_rows), key_rows_shape)
            v = op.Reshape(op.Gather(values, key_rows), key_rows_shape)
            logits = op.MatMul(q, op.Transpose(k, perm=[0, 1, 2, 4, 3]))

            # A token's own key is in its window, so that keys it does not see weigh nothing at any logit
            # far below `self_logit`: the contract's -1e9 need not be exact.
            at_query = op.Reshape(op.Slice(at, begin, end, two), query_shape)
            at_key = op.Reshape(op.Gather(at, window, axis=2), key_shape)
            query_limit = op.Reshape(op.Slice(limit, begin, end, two), query_shape)
            key_seen = op.Reshape(op.Gather(seen, window, axis=2), key_shape)
            apart = op.Abs(op.Sub(at_key, at_query))
            logits = op.Min(op.Min(logits, op.Sub(query_limit, key_seen)), op.Add(apart, self_logit))
            logits = op.Max(logits, op.Sub(self_logit, apart))

            # exp(logit - lse) = probability * sum exp(logit - max) * exp(max - lse), with lse rounded.
            probabilities = op.Softmax(logits, axis=-1)
            greatest = op.ReduceMax(logits, minus_one)
            exp_sum = op.Reciprocal(op.ReduceMax(probabilities, minus_one))
            lse = op.Add(greatest, op.Log(exp_sum))
            scale = op.Mul(exp_sum, op.Exp(op.Sub(greatest, lse)))
            attended = op.Mul(op.MatMul(probabilities, v), scale)
            attended_blocks = op.SequenceInsert(attended_blocks, attended)
            lse_blocks = op.SequenceInsert(lse_blocks, lse)
        attended_slots = op.Reshape(op.ConcatFromSequence(attended_blocks, axis=2), row_shape)
        lse_slots = op.Reshape(op.ConcatFromSequence(lse_blocks, axis=2), column)

        # Back from slots to rows.
        query_positions = op.Gather(sorted_positions, r, axis=2)
        slot_of = op.Add(op.ScatterElements(slot_index, query_positions, slot_index, axis=2), first_slot)
        slot_of_row = op.Transpose(op.Slice(slot_of, zero, length, two), perm=[0, 2, 1])
        slot_of_row = op.Reshape(slot_of_row, minus_one)
        lse_of_row = op.Gather(lse_slots, slot_of_row)
        new_best = op.Max(best, lse_of_row)
        kept = op.Exp(op.Sub(best, new_best))
        added = op.Exp(op.Sub(lse_of_row, new_best))
        total = op.Add(op.Mul(total, kept), op.Mul(op.Gather(attended_slots, slot_of_row), added))
        weight = op.Add(op.Mul(weight, kept), added)
        best = op.Identity(new_best)
    final = op.Add(best, op.Log(weight))
    rows = op.Mul(total, op.Exp(op.Sub(best, final)))
    return op.CastLike(op.Reshape(rows, op.Shape(query_key)), query_key)
