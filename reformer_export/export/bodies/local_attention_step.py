"""LocalAttentionStep in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def LocalAttentionStep(  # noqa: N802
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    past_key: FLOAT,
    past_value: FLOAT,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    self_logit: float,
    wraps: int,
) -> tuple[FLOAT, FLOAT, FLOAT]:
    """The contract as it is worded: LocalAttention for every row, over the chunks that its last one sees. A
    row without new tokens computes one, and drops it."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    zero_scalar = op.Constant(value_int=0)
    one_scalar = op.Constant(value_int=1)
    chunk = op.Reshape(op.Constant(value_int=chunk_length), one)
    before = op.Reshape(op.Constant(value_int=num_chunks_before), one)
    token = op.Shape(query, start=1, end=2)
    capacity = op.Shape(past_key, start=1, end=2)
    padding = op.Constant(value_ints=[0, 0, 0, 0])
    slots = op.Range(zero_scalar, op.Squeeze(capacity), one_scalar)
    held = op.Cast(lengths, to=7)
    fresh = op.Cast(new_lengths, to=7)

    # Lengths that do not fit ask for an element behind the end of this constant, which a runtime refuses.
    several = op.And(op.Greater(fresh, one), op.Greater(held, zero))
    wrong_ring = op.Not(op.Equal(capacity, op.Mul(op.Add(before, one), chunk)))
    beyond = op.Or(op.Greater(fresh, token), wrong_ring)
    negative = op.Less(op.Min(held, fresh), zero)
    refused = op.Cast(op.Or(op.Or(several, beyond), negative), to=7)
    held = op.Add(held, op.Gather(op.Constant(value_ints=[0]), refused))

    outputs = op.SequenceEmpty(dtype=1)
    keys = op.SequenceEmpty(dtype=1)
    values = op.SequenceEmpty(dtype=1)
    num_rows = op.Squeeze(op.Shape(query, start=0, end=1))
    for b in range(num_rows):
        row = op.Reshape(b, one)
        length = op.Gather(held, row)
        new = op.Gather(fresh, row)
        computed = op.Max(new, one)

        # The tokens that the last chunk sees, in their order; the queries of those held are dropped again.
        start = op.Mul(op.Max(op.Sub(op.Div(length, chunk), before), zero), chunk)
        seen = op.Mod(op.Range(op.Squeeze(start), op.Squeeze(length), one_scalar), capacity)
        first = op.Sub(length, start)
        row_key = op.Cast(op.Gather(key, row), to=1)
        row_value = op.Cast(op.Gather(value, row), to=1)
        past_k = op.Cast(op.Gather(past_key, row), to=1)
        past_v = op.Cast(op.Gather(past_value, row), to=1)
        held_k = op.Gather(past_k, seen, axis=1)
        row_query = op.Slice(op.Cast(op.Gather(query, row), to=1), zero, computed, one)
        mask = op.Expand(op.Cast(one_scalar, to=6), op.Concat(one, op.Add(first, computed), axis=0))
        attended = REFORMER.LocalAttention(
            op.Concat(held_k, row_query, axis=1),
            op.Concat(held_k, op.Slice(row_key, zero, computed, one), axis=1),
            op.Concat(op.Gather(past_v, seen, axis=1), op.Slice(row_value, zero, computed, one), axis=1),
            mask,
            num_heads=num_heads,
            chunk_length=chunk_length,
            num_chunks_before=num_chunks_before,
            num_chunks_after=num_chunks_after,
            is_causal=is_causal,
            padding_multiple=padding_multiple,
            padding_threshold=padding_threshold,
            self_logit=self_logit,
            wraps=wraps,
            plugin_namespace=PLUGIN_NAMESPACE,
            plugin_version=PLUGIN_VERSION,
        )
        rows = op.Slice(attended, first, op.Add(first, new), one)
        rest = op.Concat(padding, op.Sub(token, new), zero, axis=0)
        outputs = op.SequenceInsert(outputs, op.Pad(rows, rest))

        # The last position of each slot, and the new token that it is; before these, what the ring had.
        end = op.Sub(op.Add(length, new), one)
        position = op.Sub(end, op.Mod(op.Add(op.Sub(end, slots), capacity), capacity))
        index = op.Sub(position, length)
        is_new = op.Unsqueeze(op.GreaterOrEqual(index, zero), one)
        taken = op.Max(index, zero)
        keys = op.SequenceInsert(keys, op.Where(is_new, op.Gather(row_key, taken, axis=1), past_k))
        values = op.SequenceInsert(values, op.Where(is_new, op.Gather(row_value, taken, axis=1), past_v))
    output = op.CastLike(op.ConcatFromSequence(outputs, axis=0), query)
    present_key = op.CastLike(op.ConcatFromSequence(keys, axis=0), query)
    present_value = op.CastLike(op.ConcatFromSequence(values, axis=0), query)
    return output, present_key, present_value


@script(TRANSLATION, default_opset=op)
def local_attention_step_node(
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    past_key: FLOAT,
    past_value: FLOAT,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    self_logit: float,
    wraps: int,
) -> tuple[FLOAT, FLOAT, FLOAT]:
    output, present_key, present_value = REFORMER.LocalAttentionStep(
        query,
        key,
        value,
        past_key,
        past_value,
        lengths,
        new_lengths,
        num_heads=num_heads,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        is_causal=is_causal,
        padding_multiple=padding_multiple,
        padding_threshold=padding_threshold,
        self_logit=self_logit,
        wraps=wraps,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )
    return output, present_key, present_value
