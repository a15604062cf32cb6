"""LSHAttention in ONNX: its function body, and the node of the traced graph that stands for it."""

from __future__ import annotations

from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.export.bodies.opsets import BLOCK_ELEMENTS, REFORMER, TRANSLATION


@script(REFORMER, default_opset=op)
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
    self_logit: float,
    dense_threshold: int,
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
    most_dense = op.Reshape(op.Constant(value_int=dense_threshold), one)
    batch = op.Shape(query_key, start=0, end=1)
    length = op.Shape(query_key, start=1, end=2)
    size = op.Div(op.Shape(query_key, start=2, end=3), heads)

    # Virtual padding to Lp. A dense sequence is cut into chunks too, in one round and in its own order: each
    # sees all of them. One that fits a chunk is one of its own length.
    rounded = op.Mul(op.Div(op.Sub(op.Add(length, multiple), one), multiple), multiple)
    virtual = op.Where(op.LessOrEqual(length, threshold), length, rounded)
    dense = op.LessOrEqual(virtual, most_dense)
    # 1, unless there is no token: then ONNX Runtime refuses to reshape, and says what the input's shape is.
    some = op.Shape(op.Reshape(attention_mask, op.Concat(batch, length, minus_one, axis=0)), start=2, end=3)
    tokens = op.Max(op.Where(dense, op.Min(length, chunk), chunk), some)
    num_chunks = op.Div(op.Sub(op.Add(op.Where(dense, length, virtual), tokens), one), tokens)
    padded = op.Where(dense, op.Mul(num_chunks, tokens), virtual)
    rounds = op.Where(dense, one, op.Shape(buckets, start=2, end=3))
    before = op.Where(
        dense, op.Sub(num_chunks, one), op.Reshape(op.Constant(value_int=num_chunks_before), one)
    )
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
    own_logit = op.Constant(value_float=self_logit)
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
    block = op.Max(op.Div(op.Constant(value_ints=[BLOCK_ELEMENTS]), chunk_logits), one)
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
            logits = op.Min(op.Min(logits, op.Sub(query_limit, key_seen)), op.Add(apart, own_logit))
            logits = op.Max(logits, op.Sub(own_logit, apart))

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


@script(TRANSLATION, default_opset=op)
def lsh_attention_node(
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
    self_logit: float,
    dense_threshold: int,
) -> FLOAT:
    return REFORMER.LSHAttention(
        query_key,
        value,
        buckets,
        attention_mask,
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
