"""The contract between Python, ONNX, ONNX Runtime and TensorRT: the operators' names, inputs, attributes and
constants, and the names of an exported graph. docs/operators.md says what the operators compute; the C++ side
of this module is plugins/adapters/operators.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from reformer_export.errors import InputError

DOMAIN: Final = "reformer"
VERSION: Final = 1

PLUGIN_NAMESPACE: Final = DOMAIN
PLUGIN_VERSION: Final = str(VERSION)
"""The attributes plugin_namespace and plugin_version of the nodes that have plugins: with them TensorRT
prefers the plugin to the function body."""


@dataclass(frozen=True)
class Operator:
    """An operator's signature, in the order of its node's inputs and outputs.

    `has_plugin`: TensorRT runs a plugin of ours for it, and not its function body.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    has_plugin: bool = True


_CHUNKING: Final = (
    *("num_heads", "chunk_length", "num_chunks_before", "num_chunks_after", "is_causal"),
    *("padding_multiple", "padding_threshold"),
)

LSH_BUCKETS: Final = Operator(
    "LSHBuckets", ("query_key", "rotations", "attention_mask"), ("buckets",), ("num_heads", "num_buckets")
)
LSH_ATTENTION: Final = Operator(
    "LSHAttention",
    ("query_key", "value", "buckets", "attention_mask"),
    ("output",),
    (*_CHUNKING, "key_norm_epsilon", "self_logit", "dense_threshold"),
)
LOCAL_ATTENTION: Final = Operator(
    "LocalAttention",
    ("query", "key", "value", "attention_mask"),
    ("output",),
    (*_CHUNKING, "self_logit", "wraps"),
)
RESIDUAL_NORM: Final = Operator(
    "ResidualNorm",
    ("stream", "update", "scale", "bias"),
    ("stream_out", "normed"),
    ("epsilon",),
    has_plugin=False,
)
FINAL_NORM: Final = Operator(
    "FinalNorm",
    ("other_stream", "stream", "update", "scale", "bias"),
    ("normed",),
    ("epsilon",),
    has_plugin=False,
)
LSH_ATTENTION_STEP: Final = Operator(
    "LSHAttentionStep",
    (
        *("query_key", "value", "new_buckets"),
        *("past_query_key", "past_value", "past_buckets"),
        *("lengths", "new_lengths"),
    ),
    ("output", "present_query_key", "present_value", "present_buckets"),
    LSH_ATTENTION.attributes,
)
LOCAL_ATTENTION_STEP: Final = Operator(
    "LocalAttentionStep",
    ("query", "key", "value", "past_key", "past_value", "lengths", "new_lengths"),
    ("output", "present_key", "present_value"),
    LOCAL_ATTENTION.attributes,
)
LSH_BUCKETS_STEP: Final = Operator(
    "LSHBucketsStep",
    ("query_key", "rotations", "past_records", "lengths", "new_lengths"),
    ("new_buckets", "buckets", "present_records"),
    ("num_heads", "padding_multiple"),
)
LINEAR: Final = Operator(
    "Linear", ("x", "weight", "scales", "bias"), ("y",), ("activation",), has_plugin=False
)
OPERATORS: Final = (
    *(LSH_BUCKETS, LSH_ATTENTION, LOCAL_ATTENTION, RESIDUAL_NORM, FINAL_NORM),
    *(LSH_ATTENTION_STEP, LOCAL_ATTENTION_STEP, LSH_BUCKETS_STEP, LINEAR),
)

RELU: Final = 1
GELU: Final = 2
"""Linear's activation; 0 is none."""

INT8_LIMIT: Final = 127
"""The greatest whole number that Linear rounds to; the least is its negative."""

RECORD_COLUMNS: Final = 15
"""Columns of the rotations in a word of LSHBucketsStep's records, two bits each."""


def count_record_words(columns: int) -> int:
    """Words of records, of each round, for so many columns."""
    return -(-columns // RECORD_COLUMNS)


ROUND_AXIS: Final = 2
"""Of the rotations [H, D, R, S] and of the buckets [B, H, R, L]."""

MASKED_LOGIT: Final = -1e9
"""Logit of a masked or future key (transformers' modeling_reformer.py, mask_value_float32)."""

SELF_LOGIT: Final = -1e5
"""Logit of a token's own key in LSH attention, where a node does not give another (the same file,
self_mask_value_float32)."""

NO_SELF_LOGIT: Final = math.inf
"""LocalAttention's self_logit where a token's own key has no rule of its own: the default."""

MAX_SELF_LOGIT: Final = 1e8
"""Of a self_logit's size: far from MASKED_LOGIT, so that a token sees itself rather than a masked key."""

KEY_NORM_EPSILON: Final = 1e-6
"""Added to the mean square of a key (the same file, LSHSelfAttention._len_norm)."""

IDS_INPUT: Final = "input_ids"
"""The graph input of token ids, int64 [batch, sequence]."""

VECTORS_INPUT: Final = "inputs_embeds"
"""In place of token ids: the graph input of a model that takes vectors, T [batch, sequence, hidden_size]."""

MASK_INPUT: Final = "attention_mask"
"""The graph input that is 1 for tokens and 0 for padding, int64 [batch, sequence]."""

NUM_HASHES_INPUT: Final = "num_hashes"
"""The graph input, int64 [1], that says how many rounds of hashing a run uses; all of them without it."""

MIN_OPSET: Final = 18
MAX_OPSET: Final = 23
DEFAULT_OPSET: Final = 20
"""ONNX opsets: those that have the function bodies' operators and that the exporter can write."""

SCOPES_KEY: Final = "pkg.torch.onnx.name_scopes"
"""torch.onnx's metadata of a node: the modules that it came from, and its own name, as a Python list. By
them a difference is located."""

PRODUCT: Final = ".product"
"""After the name of a linear module: its matrix product, before the bias, where they are two nodes."""


def check_opset(opset: int) -> None:
    """InputError unless the function bodies' operators exist in `opset` and the exporter can write it."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(
            "opset", opset, f"{MIN_OPSET} to {MAX_OPSET}", f"choose another `opset` (default {DEFAULT_OPSET})"
        )


def check_self_logit(self_logit: float, *, may_be_absent: bool) -> None:
    """InputError unless `self_logit` is a logit between masked keys and those of other tokens, or, where it
    may be, NO_SELF_LOGIT."""
    absent = may_be_absent and self_logit == NO_SELF_LOGIT
    if not absent and not abs(self_logit) <= MAX_SELF_LOGIT:
        expected = f"{-MAX_SELF_LOGIT:g} to {MAX_SELF_LOGIT:g}"
        expected += f", or {NO_SELF_LOGIT} for no rule" if may_be_absent else ""
        raise InputError("self_logit", self_logit, expected, "give another `self_logit`")


def neighbour_shifts(num_chunks_before: int, num_chunks_after: int, num_chunks: int) -> list[int]:
    """For each chunk of a window, how many chunks after the query's own it lies, modulo `num_chunks`.

    Where a neighbour is farther away than there are chunks, eager's slices take the chunk itself
    (transformers' modeling_reformer.py, _look_adjacent).
    """
    shifts = range(-num_chunks_before, num_chunks_after + 1)
    return [0 if abs(shift) > num_chunks else shift for shift in shifts]
