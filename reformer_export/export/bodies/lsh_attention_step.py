"""LSHAttentionStep in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def LSHAttentionStep(  # noqa: N802
    query_key: FLOAT,
    value: FLOAT,
    new_buckets: INT32,
    past_query_key: FLOAT,
    past_value: FLOAT,
    past_buckets: INT32,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    key_norm_epsilon: float,
    self_logit: float,
    dense_threshold: int,
) -> tuple[FLOAT, FLOAT, FLOAT, INT32]:
    """The contract as it is worded: the whole of LSHAttention for every row, so that a step costs what a pass
    over its row costs. A row without new tokens computes one, and drops it."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    three = op.Constant(value_ints=[3])
    token = op.Shape(query_key, start=1, end=2)
    capacity = op.Shape(past_query_key, start=1, end=2)
    padding = op.Constant(value_ints=[0, 0, 0, 0])
    held = op.Cast(lengths, to=7)
    fresh = op.Cast(new_lengths, to=7)

    # Lengths that do not fit ask for an element behind the end of this constant, which a runtime refuses.
    several = op.And(op.Greater(fresh, one), op.Greater(held, zero))
    beyond = op.Or(op.Greater(fresh, token), op.Greater(op.Add(held, fresh), capacity))
    negative = op.Less(op.Min(held, fresh), zero)
    refused = op.Cast(op.Or(op.Or(several, beyond), negative), to=7)
    held = op.Add(held, op.Gather(op.Constant(value_ints=[0]), refused))

    outputs = op.SequenceEmpty(dtype=1)
    query_keys = op.SequenceEmpty(dtype=1)
    values = op.SequenceEmpty(dtype=1)
    buckets = op.SequenceEmpty(dtype=6)
    num_rows = op.Squeeze(op.Shape(query_key, start=0, end=1))
    for b in range(num_rows):
        row = op.Reshape(b, one)
        length = op.Gather(held, row)
        new = op.Gather(fresh, row)
        computed = op.Max(new, one)
        end = op.Add(length, new)

        row_query_key = op.Cast(op.Gather(query_key, row), to=1)
        row_value = op.Cast(op.Gather(value, row), to=1)
        row_buckets = op.Gather(new_buckets, row)
        past_x = op.Cast(op.Gather(past_query_key, row), to=1)
        past_v = op.Cast(op.Gather(past_value, row), to=1)
        past_b = op.Gather(past_buckets, row)
        held_x = op.Slice(past_x, zero, length, one)
        held_v = op.Slice(past_v, zero, length, one)
        held_b = op.Slice(past_b, zero, length, three)
        mask = op.Expand(
            op.Cast(op.Constant(value_int=1), to=6), op.Concat(one, op.Add(length, computed), axis=0)
        )
        attended = REFORMER.LSHAttention(
            op.Concat(held_x, op.Slice(row_query_key, zero, computed, one), axis=1),
            op.Concat(held_v, op.Slice(row_value, zero, computed, one), axis=1),
            op.Concat(held_b, op.Slice(row_buckets, zero, computed, three), axis=3),
            mask,
            num_heads=num_heads,
            chunk_length=chunk_length,
            num_chunks_before=num_chunks_before,
            num_chunks_after=num_chunks_after,
            is_causal=is_causal,
            padding_multiple=padding_multiple,
            padding_threshold=padding_threshold,
            key_norm_epsilon=key_norm_epsilon,
            self_logit=self_logit,
            dense_threshold=dense_threshold,
            plugin_namespace=PLUGIN_NAMESPACE,
            plugin_version=PLUGIN_VERSION,
        )
        rows = op.Slice(attended, length, end, one)
        rest = op.Concat(padding, op.Sub(token, new), zero, axis=0)
        outputs = op.SequenceInsert(outputs, op.Pad(rows, rest))
        query_keys = op.SequenceInsert(
            query_keys,
            op.Concat(
                held_x, op.Slice(row_query_key, zero, new, one), op.Slice(past_x, end, capacity, one), axis=1
            ),
        )
        values = op.SequenceInsert(
            values,
            op.Concat(
                held_v, op.Slice(row_value, zero, new, one), op.Slice(past_v, end, capacity, one), axis=1
            ),
        )
        buckets = op.SequenceInsert(
            buckets,
            op.Concat(
                held_b,
                op.Slice(row_buckets, zero, new, three),
                op.Slice(past_b, end, capacity, three),
                axis=3,
            ),
        )
    output = op.CastLike(op.ConcatFromSequence(outputs, axis=0), query_key)
    present_query_key = op.CastLike(op.ConcatFromSequence(query_keys, axis=0), query_key)
    present_value = op.CastLike(op.ConcatFromSequence(values, axis=0), query_key)
    present_buckets = op.ConcatFromSequence(buckets, axis=0)
    return output, present_query_key, present_value, present_buckets


@script(TRANSLATION, default_opset=op)
def lsh_attention_step_node(
    query_key: FLOAT,
    value: FLOAT,
    new_buckets: INT32,
    past_query_key: FLOAT,
    past_value: FLOAT,
    past_buckets: INT32,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: int,
    padding_multiple: int,
    padding_threshold: int,
    key_norm_epsilon: float,
    self_logit: float,
    dense_threshold: int,
) -> tuple[FLOAT, FLOAT, FLOAT, INT32]:
    output, present_query_key, present_value, present_buckets = REFORMER.LSHAttentionStep(
        query_key,
        value,
        new_buckets,
        past_query_key,
        past_value,
        past_buckets,
        lengths,
        new_lengths,
        num_heads=num_heads,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        is_causal=is_causal,
        padding_multiple=padding_multiple,
        padding_threshold=padding_threshold,
        key_norm_epsilon=key_norm_epsilon,
        self_logit=self_logit,
        dense_threshold=dense_threshold,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )
    return output, present_query_key, present_value, present_buckets
