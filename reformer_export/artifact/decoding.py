"""decode.onnx: which models have one, and the caches that it takes and gives.

Each row of its batch is a sequence of its own: it holds `lengths` tokens and gets `new_lengths` more, a
prompt or one token (docs/operators.md, LSHAttentionStep).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from reformer_export.contract import count_record_words
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
RECORD_CACHE: Final = "records"
"""The names of the caches whose size depends on the number of hashes: buckets, or what gives them for any
number of these (LSHBucketsStep)."""

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
    """InputError unless a step of the model is the last row of its operators over the same tokens."""
    if spec.takes_vectors:
        got, expected = "a model that takes vectors", "one that predicts tokens"
        raise InputError("decode", got, expected, "leave `decode` out")
    expected = "a causal text-generation model without chunks after"
    if spec.task != "text-generation" or not spec.is_causal:
        got = f"a model for {spec.task}" + ("" if spec.is_causal else " that sees later tokens")
        raise _refuse(got, expected)
    if isinstance(spec, LucidrainsSpec):
        _check_lucidrains(spec)
    elif any(layer.num_chunks_after for layer in spec.layers):
        raise _refuse("layers that attend to chunks after", expected)


def _check_lucidrains(spec: LucidrainsSpec) -> None:
    if not (spec.is_padded and spec.takes_length(1)):
        got = f"a model that takes no other lengths than {spec.describe_lengths()}"
        expected = "a model of reformer-pytorch that takes any, in an Autopadder or a TrainingWrapper"
        raise _refuse(got, expected)
    if spec.num_memory_keys:
        got = f"num_mem_kv {spec.num_memory_keys}, keys that no cache begins with"
        raise _refuse(got, "a model of reformer-pytorch without num_mem_kv")
    if spec.memory_layers:
        got = "pkm_layers, which nobody has compared token by token"
        raise _refuse(got, "a model of reformer-pytorch without pkm_layers")


def _refuse(got: str, expected: str) -> InputError:
    return InputError("decode", got, expected, "leave `decode` out: every token takes a whole pass")


def prompt_width(spec: ModelSpec, tokens: int) -> int:
    """Tokens that a call has room for when it takes a prompt of so many: in a model of reformer-pytorch a
    call of one is no whole pass, which pads."""
    return max(tokens, 2) if isinstance(spec, LucidrainsSpec) else tokens


def cache_tensors(spec: ModelSpec, dtype: DType, num_hashes: int | None = None) -> tuple[CacheTensor, ...]:
    """The caches in the order of the graph's inputs; `num_hashes` in place of the model's own."""
    tensors = []
    for index, layer in enumerate(spec.layers):
        if isinstance(spec, LucidrainsSpec):
            tensors += _lucidrains_tensors(spec, index, dtype, num_hashes)
        elif isinstance(layer, LSHAttentionSpec):
            rounds = layer.num_hashes if num_hashes is None else num_hashes
            tensors += [
                *_tokens(index, ("query_key", "value"), dtype, CAPACITY, spec.num_heads * spec.head_size),
                CacheTensor(index, BUCKET_CACHE, "int32", (spec.num_heads, rounds, CAPACITY)),
            ]
        else:
            ring = (layer.num_chunks_before + 1) * layer.chunk_length
            width = spec.num_heads * spec.head_size
            tensors += _tokens(index, ("key", "value"), dtype, ring, width)
    return tuple(tensors)


def _lucidrains_tensors(
    spec: LucidrainsSpec, index: int, dtype: DType, num_hashes: int | None
) -> list[CacheTensor]:
    """Of the heads that hash: keys, turned where positions are rotary, values, and records of hashes; where
    attention is dense first, the keys before they are turned; and the rings of local heads."""
    layer, heads = spec.layers[index], spec.num_hash_heads
    width, tensors = heads * spec.head_size, []
    if isinstance(layer, LSHAttentionSpec):
        rounds = layer.num_hashes if num_hashes is None else num_hashes
        words = count_record_words(spec.rotations_shape(index)[3])
        tensors += _tokens(index, ("query_key", "value"), dtype, CAPACITY, width)
        tensors.append(CacheTensor(index, RECORD_CACHE, "int32", (heads, rounds * words, CAPACITY)))
        if spec.unturned_keys:
            tensors += _tokens(index, ("dense_key", "dense_value"), dtype, spec.unturned_keys, width)
    else:
        tensors += _tokens(index, ("key", "value"), dtype, spec.longest_attended, width)
    if spec.num_local_heads:
        ring, width = 2 * spec.padding_multiple, spec.num_local_heads * spec.head_size
        tensors += _tokens(index, ("local_key", "local_value"), dtype, ring, width)
    return tensors


def _tokens(
    layer: int, names: tuple[str, ...], dtype: DType, tokens: int | str, width: int
) -> list[CacheTensor]:
    return [CacheTensor(layer, name, dtype, (tokens, width)) for name in names]


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
