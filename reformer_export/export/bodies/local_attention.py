"""LocalAttention in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import MASKED_LOGIT, PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.export.bodies.opsets import BLOCK_ELEMENTS, REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
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
    self_logit: float,
    wraps: int,
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
    # 1, unless there is no token: then ONNX Runtime refuses to reshape, and says what the input's shape is.
    some = op.Shape(op.Reshape(attention_mask, op.Concat(batch, length, minus_one, axis=0)), start=2, end=3)
    tokens = op.Max(op.Where(dense, length, chunk), some)
    before = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_before), one))
    after = op.Where(dense, zero, op.Reshape(op.Constant(value_int=num_chunks_after), one))
    extra = op.Sub(padded, length)

    # chunks [n, C]: positions. shifts [S]: the chunks of a window, counted from the query's own.
    positions = op.Range(zero_scalar, op.Squeeze(padded), one_scalar)
    num_chunks = op.Div(padded, tokens)
    chunks = op.Reshape(positions, op.Concat(num_chunks, tokens, axis=0))
    window_chunks = op.Add(op.Add(before, after), one)
    apart_chunks = op.Sub(op.Range(zero_scalar, op.Squeeze(window_chunks), one_scalar), before)
    shifts = op.Mul(apart_chunks, op.Cast(op.LessOrEqual(op.Abs(apart_chunks), num_chunks), to=7))
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
    masked_logit = op.Constant(value_float=MASKED_LOGIT)
    mask = op.Cast(op.Pad(attention_mask, op.Concat(op.Constant(value_ints=[0, 0, 0]), extra, axis=0)), to=9)
    at = op.Mul(op.Cast(positions, to=1), step)
    causal = op.Cast(op.Constant(value_int=is_causal), to=9)
    limit = op.Add(op.Where(causal, at, no_limit), half_step)
    limit = op.Reshape(limit, op.Concat(one, one, num_chunks, tokens, one, axis=0))
    at_chunk = op.Reshape(at, op.Concat(num_chunks, tokens, axis=0))
    query_places_shape = op.Concat(one, one, minus_one, tokens, one, axis=0)
    seen = op.Reshape(op.Where(mask, at, never), op.Concat(batch, one, num_chunks, tokens, axis=0))
    seen_shape = op.Concat(batch, one, minus_one, one, width, axis=0)
    query_rows_shape = op.Concat(batch, heads, minus_one, tokens, size, axis=0)
    key_rows_shape = op.Concat(batch, heads, minus_one, width, size, axis=0)
    key_places_shape = op.Concat(one, one, minus_one, one, width, axis=0)
    output_shape = op.Concat(batch, minus_one, op.Mul(heads, size), axis=0)

    # The token itself has a logit of its own, and a neighbour that does not exist one below a masked key's.
    # Where neither is asked for, no logit is looked at twice.
    own_logit = op.Constant(value_float=self_logit)
    own_floor = op.Where(op.IsInf(own_logit), masked_logit, own_logit)
    greatest_logit = op.Constant(value_float=3.0e38)
    wrapped = op.Cast(op.Constant(value_int=wraps), to=9)
    plain = op.And(wrapped, op.IsInf(own_logit))

    # Blocks of chunks whose logits fit the processor's cache.
    chunk_logits = op.Mul(op.Mul(op.Mul(batch, heads), tokens), width)
    block = op.Max(op.Div(op.Constant(value_ints=[BLOCK_ELEMENTS]), chunk_logits), one)
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
        visible = op.Sub(block_limit, block_seen)
        if plain:
            most = op.Identity(visible)
            least = op.Identity(masked_logit)
        else:
            key_at = op.Reshape(op.Gather(at_chunk, window), key_places_shape)
            apart = op.Abs(
                op.Sub(op.Reshape(op.Slice(at_chunk, begin, end, zero), query_places_shape), key_at)
            )
            neighbours = op.Add(op.Unsqueeze(own, one), apart_chunks)
            inside = op.And(op.GreaterOrEqual(neighbours, zero), op.Less(neighbours, num_chunks))
            exists = op.Expand(op.Unsqueeze(op.Or(inside, wrapped), two), op.Concat(one, one, tokens, axis=0))
            ceiling = op.Where(op.Reshape(exists, key_places_shape), greatest_logit, op.Neg(greatest_logit))
            most = op.Min(op.Min(visible, op.Add(apart, own_logit)), ceiling)
            least = op.Min(op.Max(masked_logit, op.Sub(own_floor, apart)), ceiling)
        logits = op.Max(op.Min(logits, most), least)

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


@script(TRANSLATION, default_opset=op)
def local_attention_node(
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
    self_logit: float,
    wraps: int,
) -> FLOAT:
    return REFORMER.LocalAttention(
        query,
        key,
        value,
        attention_mask,
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
