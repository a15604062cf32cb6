"""LSHBuckets: the angular locality-sensitive hash (Andoni et al. 2015; Kitaev et al. 2020, section 2.1).

Contract (one node, domain `reformer`): query_key T [B, L, H*D], rotations float32 [H, D, R, S],
attention_mask int32 [B, L] -> buckets int32 [B, H, R, L]. `num_buckets` holds even factors f_i with
S = sum(f_i) / 2; a token's bucket is sum_i a_i * prod_{j<i} f_j with a_i = argmax of (y_i, -y_i), the lowest
index on ties; a masked token gets bucket prod(f_i).
"""

from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035 - onnxscript on Python 3.10 needs this Sequence

import torch
from onnxscript import FLOAT, INT32, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from reformer_export.ops.domain import DOMAIN, VERSION
from reformer_export.ops.native_kernels import kernels_for

_reformer = Opset(DOMAIN, VERSION)


def draw_rotations(seed: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Random rotations float32 [H, D, R, S] as transformers draws them on the CPU for `hash_seed`.

    A generator of its own: the caller's global random state is left untouched.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def rotate_heads(query_key: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """T [B, L, H*D] and float32 [H, D, R, S] -> scores float32 [B, H, R, L, S]."""
    heads, size = rotations.shape[:2]
    vectors = query_key.float().view(*query_key.shape[:2], heads, size)
    return torch.einsum("blhd,hdrs->bhrls", vectors, rotations)


def lsh_buckets_reference(
    query_key: torch.Tensor,
    rotations: torch.Tensor,
    attention_mask: torch.Tensor,
    num_heads: int,
    num_buckets: Sequence[int],
) -> torch.Tensor:
    """The contract in plain PyTorch.

    Args:
        query_key: T [B, L, H*D].
        rotations: float32 [H, D, R, S].
        attention_mask: int32 [B, L].
        num_heads: H.
        num_buckets: even factors f_i, S = sum(f_i) / 2.

    Returns:
        int32 [B, H, R, L].
    """
    scores = rotate_heads(query_key, rotations)
    buckets = torch.zeros(scores.shape[:-1], dtype=torch.int64, device=scores.device)
    product = 1
    first = 0
    for factor in num_buckets:
        part = scores[..., first : first + factor // 2]
        buckets += product * torch.cat([part, -part], dim=-1).argmax(dim=-1)
        product *= factor
        first += factor // 2
    return torch.where(attention_mask[:, None, None, :] != 0, buckets, product).to(torch.int32)


def _compute(
    query_key: torch.Tensor, rotations: torch.Tensor, mask: torch.Tensor, num_heads: int, num_buckets: Any
) -> torch.Tensor:
    """The reference's arguments: native where the library takes them, else the reference."""
    kernels = kernels_for(num_heads, query_key, rotations)
    compute = lsh_buckets_reference if kernels is None else kernels.lsh_buckets
    return compute(query_key, rotations, mask, num_heads, num_buckets)


lsh_buckets = torch.library.custom_op(
    "reformer::lsh_buckets",
    _compute,
    mutates_args=(),
    schema=torch.library.infer_schema(lsh_buckets_reference, mutates_args=()),
)
"""The operator, one node to `torch.export`; arguments and result as of `lsh_buckets_reference`."""


@lsh_buckets.register_fake
def _(query_key: torch.Tensor, rotations: torch.Tensor, *_: object) -> torch.Tensor:
    shape = (query_key.shape[0], rotations.shape[0], rotations.shape[2], query_key.shape[1])
    return query_key.new_empty(shape, dtype=torch.int32)


@script(_reformer, default_opset=op)
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
    factors = op.Constant(value_ints=num_buckets)
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
    token_scores = op.Mul(op.Mul(batch, heads), op.ReduceMax(halves, zero))
    block = op.Max(op.Div(op.Constant(value_ints=[524288]), token_scores), one)
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
