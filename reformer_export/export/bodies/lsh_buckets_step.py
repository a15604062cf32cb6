"""LSHBucketsStep in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from typing import Final

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION, RECORD_COLUMNS
from reformer_export.export.bodies.opsets import REFORMER, TRANSLATION

POWERS: Final = [4**digit for digit in range(RECORD_COLUMNS)]
"""What a word has 1 of for each of its columns' digits."""


@script(REFORMER, default_opset=op)
def LSHBucketsStep(  # noqa: N802
    query_key: FLOAT,
    rotations: FLOAT,
    past_records: INT32,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    padding_multiple: int,
) -> tuple[INT32, INT32, INT32]:
    """The contract in standard ONNX operators: the argmax is followed through the columns one by one, and
    every row's buckets are read from its records likewise."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    three = op.Constant(value_ints=[3])
    four = op.Constant(value_ints=[4])
    minus_one = op.Constant(value_ints=[-1])
    per_word = op.Constant(value_ints=[15])
    digits = op.Constant(value_ints=POWERS)
    heads = op.Reshape(op.Constant(value_int=num_heads), one)
    multiple = op.Reshape(op.Constant(value_int=padding_multiple), one)
    token = op.Shape(query_key, start=1, end=2)
    capacity = op.Shape(past_records, start=3, end=4)
    rounds = op.Shape(rotations, start=2, end=3)
    most = op.Shape(rotations, start=3, end=4)
    words = op.Div(op.Add(most, op.Sub(per_word, one)), per_word)
    held = op.Cast(lengths, to=7)
    fresh = op.Cast(new_lengths, to=7)

    # Lengths that do not fit ask for an element behind the end of this constant, which a runtime refuses.
    several = op.And(op.Greater(fresh, one), op.Greater(held, zero))
    beyond = op.Or(op.Greater(fresh, token), op.Greater(op.Add(held, fresh), capacity))
    negative_length = op.Less(op.Min(held, fresh), zero)
    refused = op.Cast(op.Or(op.Or(several, beyond), negative_length), to=7)
    held = op.Add(held, op.Gather(op.Constant(value_ints=[0]), refused))

    # Of all new tokens: the largest size of y so far, whether that y is negative, and the words.
    split = op.Concat(op.Shape(query_key, start=0, end=2), heads, minus_one, axis=0)
    vectors = op.Transpose(op.Reshape(op.Cast(query_key, to=1), split), perm=[0, 2, 1, 3])
    shape = op.Concat(op.Shape(vectors, start=0, end=3), rounds, axis=0)
    best = op.Expand(op.Constant(value_float=-1.0), shape)
    negative = op.Expand(op.Cast(op.Constant(value_int=0), to=9), shape)
    no_word = op.Expand(op.Constant(value_int=0), shape)
    records = op.Slice(op.Unsqueeze(no_word, four), zero, zero, four)
    num_words = op.Squeeze(words)
    for w in range(num_words):
        first = op.Mul(op.Reshape(w, one), per_word)
        count = op.Squeeze(op.Min(op.Sub(most, first), per_word))
        word = op.Identity(no_word)
        for i in range(count):
            place = op.Reshape(i, one)
            plane = op.Squeeze(op.Gather(rotations, op.Add(first, place), axis=3), three)
            scores = op.MatMul(vectors, plane)
            size = op.Abs(scores)
            is_negative = op.Less(scores, op.Constant(value_float=0.0))
            ties = op.And(op.Equal(size, best), op.And(negative, op.Not(is_negative)))
            moves = op.Or(op.Greater(size, best), ties)
            digit = op.Add(op.Cast(moves, to=7), op.Cast(op.And(moves, is_negative), to=7))
            word = op.Add(word, op.Mul(digit, op.Gather(digits, place)))
            best = op.Max(best, size)
            negative = op.Or(op.And(moves, is_negative), op.And(op.Not(moves), negative))
        records = op.Concat(records, op.Unsqueeze(word, four), axis=4)
    lines = op.Mul(rounds, words)
    flat = op.Concat(op.Shape(vectors, start=0, end=2), lines, token, axis=0)
    new_records = op.Cast(op.Reshape(op.Transpose(records, perm=[0, 1, 3, 4, 2]), flat), to=6)

    padding = op.Constant(value_ints=[0, 0, 0, 0, 0, 0, 0])
    one_row = op.Concat(one, heads, rounds, words, capacity, axis=0)
    no_bucket = op.Expand(op.Constant(value_int=0), op.Concat(one, heads, rounds, capacity, axis=0))
    slots = op.Range(op.Constant(value_int=0), op.Squeeze(capacity), op.Constant(value_int=1))
    of_new = op.SequenceEmpty(dtype=6)
    of_all = op.SequenceEmpty(dtype=6)
    present = op.SequenceEmpty(dtype=6)
    num_rows = op.Squeeze(op.Shape(query_key, start=0, end=1))
    for b in range(num_rows):
        row = op.Reshape(b, one)
        length = op.Gather(held, row)
        new = op.Gather(fresh, row)
        end = op.Add(length, new)
        past = op.Gather(past_records, row)
        taken = op.Concat(
            op.Slice(past, zero, length, three),
            op.Slice(op.Gather(new_records, row), zero, new, three),
            op.Slice(past, end, capacity, three),
            axis=3,
        )
        present = op.SequenceInsert(present, taken)
        own = op.Cast(op.Reshape(taken, one_row), to=7)
        columns = op.Min(op.Div(op.Add(end, op.Sub(multiple, one)), multiple), most)
        num_columns = op.Squeeze(columns)
        bucket = op.Identity(no_bucket)
        for c in range(num_columns):
            column = op.Reshape(c, one)
            word_at = op.Squeeze(op.Gather(own, op.Div(column, per_word), axis=3), three)
            power = op.Gather(digits, op.Mod(column, per_word))
            moved = op.Mod(op.Div(word_at, power), four)
            bucket = op.Where(op.Equal(moved, one), column, bucket)
            bucket = op.Where(op.Equal(moved, two), op.Add(column, columns), bucket)
        tokens = op.Where(op.Greater(new, zero), end, zero)
        bucket = op.Cast(op.Where(op.Less(slots, tokens), bucket, zero), to=6)
        of_all = op.SequenceInsert(of_all, bucket)
        fresh_ones = op.Slice(bucket, length, end, three)
        rest = op.Concat(padding, op.Sub(token, new), axis=0)
        of_new = op.SequenceInsert(of_new, op.Pad(fresh_ones, rest))
    new_buckets = op.ConcatFromSequence(of_new, axis=0)
    buckets = op.ConcatFromSequence(of_all, axis=0)
    present_records = op.ConcatFromSequence(present, axis=0)
    return new_buckets, buckets, present_records


@script(TRANSLATION, default_opset=op)
def lsh_buckets_step_node(
    query_key: FLOAT,
    rotations: FLOAT,
    past_records: INT32,
    lengths: INT32,
    new_lengths: INT32,
    num_heads: int,
    padding_multiple: int,
) -> tuple[INT32, INT32, INT32]:
    new_buckets, buckets, present_records = REFORMER.LSHBucketsStep(
        query_key,
        rotations,
        past_records,
        lengths,
        new_lengths,
        num_heads=num_heads,
        padding_multiple=padding_multiple,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )
    return new_buckets, buckets, present_records
