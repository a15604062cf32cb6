"""The operators in ONNX: a function body each in standard operators, beside the node that stands for it."""

from __future__ import annotations

from typing import Final

from reformer_export.export.bodies.final_norm import FinalNorm, final_norm_node
from reformer_export.export.bodies.function_body import function_body
from reformer_export.export.bodies.linear import Linear, linear_node
from reformer_export.export.bodies.local_attention import LocalAttention, local_attention_node
from reformer_export.export.bodies.local_attention_step import LocalAttentionStep, local_attention_step_node
from reformer_export.export.bodies.lsh_attention import LSHAttention, lsh_attention_node
from reformer_export.export.bodies.lsh_attention_step import LSHAttentionStep, lsh_attention_step_node
from reformer_export.export.bodies.lsh_buckets import LSHBuckets, lsh_buckets_node
from reformer_export.export.bodies.lsh_buckets_step import LSHBucketsStep, lsh_buckets_step_node
from reformer_export.export.bodies.residual_norm import ResidualNorm, residual_norm_node

__all__ = [
    "BODIES",
    "CALLED",
    "FinalNorm",
    "LSHAttention",
    "LSHAttentionStep",
    "LSHBuckets",
    "LSHBucketsStep",
    "Linear",
    "LocalAttention",
    "LocalAttentionStep",
    "ResidualNorm",
    "final_norm_node",
    "function_body",
    "linear_node",
    "local_attention_node",
    "local_attention_step_node",
    "lsh_attention_node",
    "lsh_attention_step_node",
    "lsh_buckets_node",
    "lsh_buckets_step_node",
    "residual_norm_node",
]

BODIES: Final = (
    *(LSHBuckets, LSHAttention, LocalAttention, ResidualNorm, FinalNorm),
    *(LSHAttentionStep, LocalAttentionStep, LSHBucketsStep, Linear),
)
"""All of them."""

CALLED: Final = {"LSHAttentionStep": "LSHAttention", "LocalAttentionStep": "LocalAttention"}
"""The operator that a body is written with."""
