"""LSHBuckets in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from typing import Sequence  # noqa: UP035 - onnxscript on Python 3.10 needs this Sequence

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.export.bodies.opsets import BLOCK_ELEMENTS, REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
def LSHBuckets(  # noqa: N802
    query_key: FLOAT, rotations: FLOAT, attention_mask: INT32, num_heads: int, num_buckets: Sequence[int]
) -> INT32:
    """The contract in standard ONNX operators: a block of tokens, a round, a factor at a time.

    argmax of (y, -y) is argmax y when max y >= -min y, else half + argmin y: no copy of y is made, and the
    lowest index wins ties as it must.
    """
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    minus_one = op.Constant(value_ints=[-1])
    heads = op.Reshape(op.Constant(value_int=num_heads), one)
    # Without factors, twice what the rotations have.
    given = op.Constant(value_ints=num_buckets)
    twice = op.Mul(op.Shape(rotations, start=3, end=4), two)
    factors = op.Concat(given, op.Slice(twice, zero, op.Sub(one, op.Min(one, op.Shape(given))), zero), axis=0)
    halves = op.Div(factors, two)
    ends = op.CumSum(halves, op.Constant(value_int=0))
    batch = op.Shape(query_key, start=0, end=1)
    length = op.Shape(query_key, start=1, end=2)
    size = op.Shape(rotations, start=1, end=2)
    split = op.Concat(batch, minus_one, heads, size, axis=0)
    masked_bucket = op.ReduceProd(factors, keepdims=0)
    mask = op.Unsqueeze(op.Cast(attention_mask, to=9), op.Constant(value_ints=[1, 2]))
    num_rounds = op.Squeeze(op.Shape(rotations, start=2, end=3))
    num_factors = op.Squeeze(op.Shape(factors))

    # Blocks of tokens whose scores fit the processor's cache.
    # 1, unless there is no token: then ONNX Runtime refuses to reshape, and says what the input's shape is.
    some = op.Shape(op.Reshape(attention_mask, op.Concat(batch, length, minus_one, axis=0)), start=2, end=3)
    token_scores = op.Max(op.Mul(op.Mul(batch, heads), op.ReduceMax(halves, zero)), some)
    block = op.Max(op.Div(op.Constant(value_ints=[BLOCK_ELEMENTS]), token_scores), one)
    num_blocks = op.Squeeze(op.Div(op.Sub(op.Add(length, block), one), block))
    blocks = op.SequenceEmpty(dtype=7)
    for b in range(num_blocks):
        begin = op.Mul(b, block)
        rows = op.Slice(query_key, begin, op.Add(begin, block), one)
        vectors = op.Transpose(op.Reshape(op.Cast(rows, to=1), split), perm=[0, 2, 1, 3])
        no_bucket = op.Expand(
            op.Constant(value_int=0), op.Concat(batch, heads, one, op.Shape(rows, start=1, end=2), axis=0)
        )
        buckets = op.Slice(no_bucket, zero, zero, two)
        for r in range(num_rounds):
            planes = op.Gather(rotations, r, axis=2)
            bucket = op.Identity(no_bucket)
            product = op.Constant(value_int=1)
            for i in range(num_factors):
                half = op.Gather(halves, i)
                end = op.Reshape(op.Gather(ends, i), one)
                scores = op.MatMul(vectors, op.Slice(planes, op.Sub(end, half), end, minus_one))
                negated = op.Greater(
                    op.Neg(op.ReduceMin(scores, minus_one, keepdims=0)),
                    op.ReduceMax(scores, minus_one, keepdims=0),
                )
                index = op.Where(
                    negated,
                    op.Add(op.ArgMin(scores, axis=-1, keepdims=0), half),
                    op.ArgMax(scores, axis=-1, keepdims=0),
                )
                bucket = op.Add(bucket, op.Mul(op.Unsqueeze(index, two), product))
                product = op.Mul(product, op.Gather(factors, i))
            buckets = op.Concat(buckets, bucket, axis=2)
        blocks = op.SequenceInsert(blocks, buckets)
    return op.Cast(op.Where(mask, op.ConcatFromSequence(blocks, axis=3), masked_bucket), to=6)


@script(TRANSLATION, default_opset=op)
def lsh_buckets_node(
    query_key: FLOAT, rotations: FLOAT, attention_mask: INT32, num_heads: int, num_buckets: Sequence[int]
) -> INT32:
    return REFORMER.LSHBuckets(
        query_key,
        rotations,
        attention_mask,
        num_heads=num_heads,
        num_buckets=num_buckets,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )
