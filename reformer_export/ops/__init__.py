"""The operators: one file an operator, with its contract, PyTorch reference and torch custom
operator."""

from reformer_export.ops.final_norm import final_norm, final_norm_reference
from reformer_export.ops.int4_blocks import dequantise_blocks
from reformer_export.ops.linear import linear, linear_reference
from reformer_export.ops.local_attention import local_attention, local_attention_reference
from reformer_export.ops.local_attention_step import local_attention_step, local_attention_step_reference
from reformer_export.ops.lsh_attention import lsh_attention, lsh_attention_reference
from reformer_export.ops.lsh_attention_step import lsh_attention_step, lsh_attention_step_reference
from reformer_export.ops.lsh_buckets import draw_rotations, lsh_buckets, lsh_buckets_reference
from reformer_export.ops.lsh_buckets_step import lsh_buckets_step, lsh_buckets_step_reference
from reformer_export.ops.residual_norm import residual_norm, residual_norm_reference

__all__ = [
    "dequantise_blocks",
    "draw_rotations",
    "final_norm",
    "final_norm_reference",
    "linear",
    "linear_reference",
    "local_attention",
    "local_attention_reference",
    "local_attention_step",
    "local_attention_step_reference",
    "lsh_attention",
    "lsh_attention_reference",
    "lsh_attention_step",
    "lsh_attention_step_reference",
    "lsh_buckets",
    "lsh_buckets_reference",
    "lsh_buckets_step",
    "lsh_buckets_step_reference",
    "residual_norm",
    "residual_norm_reference",
]
