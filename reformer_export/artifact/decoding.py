"""decode.onnx: which models have one, and the caches that it takes and gives.

Each row of its batch is a sequence of its own: it holds `lengths` tokens and gets `new_lengths` more, a
prompt or one token (docs/operators.md, LSHAttentionStep).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.spec import DType, LSHAttentionSpec, ModelSpec

DECODE_NAME: Final = "decode.onnx"

LENGTHS_INPUT: Final = "lengths"
NEW_LENGTHS_INPUT: Final = "new_lengths"
DECODE_INPUT_NAMES: Final = ("input_ids", LENGTHS_INPUT, NEW_LENGTHS_INPUT)
"""int64 [batch, sequence], int32 [batch] and int32 [batch]; the caches follow."""

DECODE_OUTPUT: Final = "logits"
"""T [batch, 1, vocab_size], of each row's last new token; the caches follow."""

CAPACITY: Final = "capacity"
"""The symbolic dimension: tokens that the caches of LSH layers have room for."""

BUCKET_CACHE: Final = "buckets"
"""The name of the cache whose size depends on the number of hashes."""

_BYTES: Final[dict[str, int]] = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4}


@dataclass(frozen=True)
class CacheTensor:
    """One cache of one layer.

    `shape` is that of one sequence, without the batch: numbers, and "capacity" where it grows with the
    tokens.
    """

    layer: int
    name: str
    dtype: DType | Literal["int32"]
    shape: tuple[int | str, ...]

    @property
    def input(self) -> str:
        """The graph's input of it."""
        return f"past.{self.layer}.{self.name}"

    @property
    def output(self) -> str:
        """The graph's output of it, with the new tokens."""
        return f"present.{self.layer}.{self.name}"

    @property
    def grows(self) -> bool:
        """Whether its size depends on the capacity."""
        return CAPACITY in self.shape

    def shape_of(self, batch: int, capacity: int) -> tuple[int, ...]:
        """[batch, ...] for so many sequences of so many tokens."""
        return (batch, *(capacity if isinstance(size, str) else size for size in self.shape))

    def nbytes(self, batch: int, capacity: int) -> int:
        """Of `shape_of`."""
        return math.prod(self.shape_of(batch, capacity)) * _BYTES[self.dtype]


def check_decodable(spec: ModelSpec) -> None:
    """InputError unless a step of the model is the last row of its pass over the same tokens."""
    got, fix = None, "leave `decode` out: every token takes a whole pass"
    if spec.takes_vectors:
        raise InputError(
            "decode", "a model that takes vectors", "one that predicts tokens", "leave `decode` out"
        )
    if isinstance(spec, LucidrainsSpec):
        got = "a model of reformer-pytorch, whose hashes change with the length"
        raise InputError("decode", got, "a model of transformers", fix)
    if spec.task != "text-generation" or not spec.is_causal:
        got = f"a model for {spec.task}" + ("" if spec.is_causal else " that sees later tokens")
    elif any(layer.num_chunks_after for layer in spec.layers):
        got = "layers that attend to chunks after"
    if got is not None:
        expected = "a causal text-generation model without chunks after"
        raise InputError("decode", got, expected, fix)


def cache_tensors(spec: ModelSpec, dtype: DType, num_hashes: int | None = None) -> tuple[CacheTensor, ...]:
    """The caches in the order of the graph's inputs; `num_hashes` in place of the model's own."""
    width = spec.num_heads * spec.head_size
    tensors = []
    for index, layer in enumerate(spec.layers):
        if isinstance(layer, LSHAttentionSpec):
            rounds = layer.num_hashes if num_hashes is None else num_hashes
            tensors += [
                CacheTensor(index, "query_key", dtype, (CAPACITY, width)),
                CacheTensor(index, "value", dtype, (CAPACITY, width)),
                CacheTensor(index, BUCKET_CACHE, "int32", (spec.num_heads, rounds, CAPACITY)),
            ]
        else:
            ring = (layer.num_chunks_before + 1) * layer.chunk_length
            tensors += [CacheTensor(index, name, dtype, (ring, width)) for name in ("key", "value")]
    return tuple(tensors)


@dataclass(frozen=True)
class DecodeRecord:
    """What a manifest says of decode.onnx: bytes of cache of a sequence, for each token of its capacity and
    besides."""

    file: str
    bytes_per_token: int
    bytes_per_sequence: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self).copy()


def describe_decoding(spec: ModelSpec, dtype: DType) -> DecodeRecord:
    """The record of a model's decode.onnx."""
    tensors = cache_tensors(spec, dtype)
    per_token = sum(tensor.nbytes(1, 1) for tensor in tensors if tensor.grows)
    return DecodeRecord(
        DECODE_NAME, per_token, sum(tensor.nbytes(1, 0) for tensor in tensors if not tensor.grows)
    )
