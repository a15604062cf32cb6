"""The structs of plugins/include/reformer_kernels.h, for ctypes, and filled with attributes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

from reformer_export.contract import Operator

MAX_BUCKET_FACTORS: Final = 30
MAX_RANK: Final = 4

Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
ParallelFor = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, Task, ctypes.c_void_p)


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_RANK),
    ]


class Execution(ctypes.Structure):
    _fields_ = [
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_uint64),
        ("parallel_for", ParallelFor),
        ("parallel_context", ctypes.c_void_p),
        ("num_workers", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("error", ctypes.c_char_p),
        ("error_size", ctypes.c_uint64),
    ]


class Chunking(ctypes.Structure):
    _fields_ = [
        ("chunk_length", ctypes.c_int64),
        ("num_chunks_before", ctypes.c_int64),
        ("num_chunks_after", ctypes.c_int64),
        ("padding_multiple", ctypes.c_int64),
        ("padding_threshold", ctypes.c_int64),
        ("is_causal", ctypes.c_int32),
    ]


_Fields = list[tuple[str, Any]]
_HEADER: Final = [("struct_size", ctypes.c_uint32), ("abi_version", ctypes.c_uint32)]
_HEADS: Final = [*_HEADER, ("num_heads", ctypes.c_int32)]
_LSH_RULES: Final[_Fields] = [
    *_HEADS,
    ("key_norm_epsilon", ctypes.c_float),
    ("self_logit", ctypes.c_float),
    ("dense_threshold", ctypes.c_int64),
]
_LOCAL_RULES: Final[_Fields] = [*_HEADS, ("self_logit", ctypes.c_float), ("wraps", ctypes.c_int32)]


class LSHBuckets(ctypes.Structure):
    _fields_ = [
        *_HEADS,
        ("num_factors", ctypes.c_int32),
        ("num_buckets", ctypes.c_int32 * MAX_BUCKET_FACTORS),
        *((name, Tensor) for name in ("query_key", "rotations", "attention_mask", "buckets")),
        ("execution", Execution),
    ]


class LSHAttention(ctypes.Structure):
    _fields_ = [
        *_LSH_RULES,
        ("chunking", Chunking),
        *((name, Tensor) for name in ("query_key", "value", "buckets", "attention_mask", "output")),
        ("execution", Execution),
    ]


class LocalAttention(ctypes.Structure):
    _fields_ = [
        *_LOCAL_RULES,
        ("chunking", Chunking),
        *((name, Tensor) for name in ("query", "key", "value", "attention_mask", "output")),
        ("execution", Execution),
    ]


class ResidualNorm(ctypes.Structure):
    _fields_ = [
        *_HEADER,
        ("epsilon", ctypes.c_float),
        *((name, Tensor) for name in ("other_stream", "stream", "update")),
        *((name, Tensor) for name in ("scale", "bias", "stream_out", "normed")),
        ("execution", Execution),
    ]


class Linear(ctypes.Structure):
    _fields_ = [
        *_HEADER,
        ("activation", ctypes.c_int32),
        *((name, Tensor) for name in ("x", "weight", "scales", "bias", "y")),
        ("packed", ctypes.c_void_p),
        ("packed_size", ctypes.c_uint64),
        ("execution", Execution),
    ]


class LSHAttentionStep(ctypes.Structure):
    _fields_ = [
        *_LSH_RULES,
        ("chunking", Chunking),
        *((name, Tensor) for name in ("query_key", "value", "new_buckets")),
        *((name, Tensor) for name in ("past_query_key", "past_value", "past_buckets")),
        *((name, Tensor) for name in ("lengths", "new_lengths", "output")),
        *((name, Tensor) for name in ("present_query_key", "present_value", "present_buckets")),
        ("execution", Execution),
    ]


class LSHBucketsStep(ctypes.Structure):
    _fields_ = [
        *_HEADS,
        ("padding_multiple", ctypes.c_int64),
        *((name, Tensor) for name in ("query_key", "rotations", "past_records", "lengths", "new_lengths")),
        *((name, Tensor) for name in ("new_buckets", "buckets", "present_records")),
        ("execution", Execution),
    ]


class LocalAttentionStep(ctypes.Structure):
    _fields_ = [
        *_LOCAL_RULES,
        ("chunking", Chunking),
        *((name, Tensor) for name in ("query", "key", "value", "past_key", "past_value")),
        *((name, Tensor) for name in ("lengths", "new_lengths", "output", "present_key", "present_value")),
        ("execution", Execution),
    ]


_STRUCTS: Final[dict[str, type[Any]]] = {
    "LSHBuckets": LSHBuckets,
    "LSHAttention": LSHAttention,
    "LocalAttention": LocalAttention,
    "ResidualNorm": ResidualNorm,
    "FinalNorm": ResidualNorm,
    "LSHAttentionStep": LSHAttentionStep,
    "LocalAttentionStep": LocalAttentionStep,
    "LSHBucketsStep": LSHBucketsStep,
    "Linear": Linear,
}


def make_params(operator: Operator, attributes: Sequence[Any]) -> Any:
    """The struct of an operator's parameters with the attributes of a call, in their order."""
    params = _STRUCTS[operator.name]()
    for name, value in zip(operator.attributes, attributes, strict=True):
        if name == "num_buckets":
            params.num_factors = len(value)
            params.num_buckets[: len(value)] = list(value)
        else:
            setattr(params if hasattr(params, name) else params.chunking, name, value)
    return params
