"""The three operators: one file an operator, with its contract, PyTorch reference, torch custom operator
and ONNX function body."""

from reformer_export.ops.domain import DOMAIN, OPERATORS, VERSION
from reformer_export.ops.local_attention import LocalAttention, local_attention, local_attention_reference
from reformer_export.ops.lsh_attention import LSHAttention, lsh_attention, lsh_attention_reference
from reformer_export.ops.lsh_buckets import LSHBuckets, draw_rotations, lsh_buckets, lsh_buckets_reference

__all__ = [
    "DOMAIN",
    "OPERATORS",
    "VERSION",
    "LSHAttention",
    "LSHBuckets",
    "LocalAttention",
    "draw_rotations",
    "local_attention",
    "local_attention_reference",
    "lsh_attention",
    "lsh_attention_reference",
    "lsh_buckets",
    "lsh_buckets_reference",
]
