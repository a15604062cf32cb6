"""Operands for the kernels: tensors on the CPU, and the operators' attributes in their order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from reformer_export.contract import NO_SELF_LOGIT, SELF_LOGIT, count_record_words
from reformer_export.ops import draw_rotations, lsh_buckets_step_reference

Mask = Literal["none", "holes", "all"]
Rules = Literal["transformers", "reformer-pytorch"]
Case = tuple[list[torch.Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Shape:
    """An attention layer; `other_chunk` is the chunk length of the model's other kind of layer, `rules` whose
    attributes it has."""

    length: int
    batch: int = 1
    heads: int = 2
    head_size: int = 64
    rounds: int = 2
    chunk: int = 64
    before: int = 1
    after: int = 0
    causal: bool = True
    other_chunk: int = 1
    mask: Mask = "holes"
    rules: Rules = "transformers"

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in vars(self).values())


SHAPES = [
    Shape(1, head_size=1, rounds=1, chunk=1, mask="none"),
    Shape(1, batch=3, chunk=8),
    Shape(7, chunk=8),  # dense: one block
    Shape(63, chunk=64, causal=False),
    Shape(65, batch=2, chunk=64),  # one token past a chunk: virtual padding
    Shape(130, chunk=8, other_chunk=12, after=1, causal=False),
    Shape(200, chunk=16, before=3, after=2, rounds=1),  # more neighbours than chunks, in places
    Shape(257, batch=2, heads=3, head_size=24, rounds=3, chunk=32),
    Shape(300, head_size=8, rounds=8, chunk=20, causal=False),
    Shape(384, head_size=128, chunk=64, mask="none"),
    Shape(400, heads=1, head_size=256, chunk=100, after=1, causal=False),
    Shape(333, heads=1, head_size=37, chunk=111),  # rows of no multiple of 16 bytes
    Shape(700, heads=1, head_size=64, chunk=512, rounds=1),
    Shape(640, batch=2, heads=1, chunk=64, mask="all"),
    Shape(1030, heads=1, head_size=64, chunk=64, rounds=4, other_chunk=128),
    Shape(150, head_size=64, chunk=64, rules="reformer-pytorch"),  # dense: one block of three chunks
    Shape(500, head_size=40, chunk=32, after=1, causal=False, rules="reformer-pytorch"),
]


def draw_mask(generator: torch.Generator, shape: Shape) -> torch.Tensor:
    """int32 [B, L]: "holes" masks a fifth of the tokens, "all" also every token of the last row."""
    mask = torch.ones(shape.batch, shape.length, dtype=torch.int32)
    if shape.mask != "none":
        mask = (torch.rand(mask.shape, generator=generator) < 0.8).to(torch.int32)
    if shape.mask == "all":
        mask[-1] = 0
    return mask


def _chunking(shape: Shape) -> dict[str, Any]:
    return {
        "num_heads": shape.heads,
        "chunk_length": shape.chunk,
        "num_chunks_before": shape.before,
        "num_chunks_after": shape.after,
        "is_causal": shape.causal,
        "padding_multiple": math.lcm(shape.chunk, shape.other_chunk),
        "padding_threshold": min(shape.chunk, shape.other_chunk),
    }


def _lsh_rules(shape: Shape) -> dict[str, Any]:
    if shape.rules == "transformers":
        return {"self_logit": SELF_LOGIT, "dense_threshold": shape.chunk}
    return {"self_logit": -5e4, "dense_threshold": 4 * shape.chunk}


def _local_rules(shape: Shape) -> dict[str, Any]:
    if shape.rules == "transformers":
        return {"self_logit": NO_SELF_LOGIT, "wraps": True}
    return {"self_logit": -5e4, "wraps": False}


def _draw(generator: torch.Generator, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    size = (shape.batch, shape.length, shape.heads * shape.head_size)
    return torch.randn(size, generator=generator).to(dtype)


def make_lsh(shape: Shape, dtype: torch.dtype, seed: int = 0, count: int = 6) -> Case:
    """LSHAttention in random buckets below `count`; tokens share one, so that the sort has to be stable."""
    generator = torch.Generator().manual_seed(seed)
    mask = draw_mask(generator, shape)
    size = (shape.batch, shape.heads, shape.rounds, shape.length)
    buckets = torch.randint(0, count, size, generator=generator, dtype=torch.int32)
    buckets = torch.where(mask[:, None, None] == 0, count, buckets)
    tensors = [_draw(generator, shape, dtype) for _ in range(2)]
    return [*tensors, buckets, mask], {**_chunking(shape), "key_norm_epsilon": 1e-6, **_lsh_rules(shape)}


def make_local(shape: Shape, dtype: torch.dtype, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    tensors = [_draw(generator, shape, dtype) for _ in range(3)]
    return [*tensors, draw_mask(generator, shape)], {**_chunking(shape), **_local_rules(shape)}


def make_buckets(shape: Shape, dtype: torch.dtype, factors: tuple[int, ...], seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    rotations = draw_rotations(seed, (shape.heads, shape.head_size, shape.rounds, sum(factors) // 2 or 12))
    tensors = [_draw(generator, shape, dtype), rotations, draw_mask(generator, shape)]
    return tensors, {"num_heads": shape.heads, "num_buckets": list(factors)}


def make_norm(operator: str, shape: Shape, dtype: torch.dtype, seed: int = 0) -> Case:
    """ResidualNorm or FinalNorm of the layer's hidden states."""
    generator = torch.Generator().manual_seed(seed)
    streams = [_draw(generator, shape, torch.float32) for _ in range(1 + (operator == "FinalNorm"))]
    scale, bias = torch.randn(2, len(streams) * shape.heads * shape.head_size, generator=generator)
    return [*streams, _draw(generator, shape, dtype), scale, bias], {"epsilon": 1e-12}


def make_step(operator: str, shape: Shape, dtype: torch.dtype, seed: int = 0) -> Case:
    """One new token of every row, which holds what is before it: some of `shape.length` tokens in all.
    Steps are causal, without chunks after and without a mask."""
    shape = replace(shape, after=0, causal=True, mask="none")
    is_lsh = operator == "LSHAttentionStep"
    (*tokens, _), attributes = (make_lsh if is_lsh else make_local)(shape, dtype, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    lengths = torch.randint(0, shape.length, (shape.batch,), generator=generator, dtype=torch.int32)
    rows = range(shape.batch)
    hashed = [tokens.pop()] if is_lsh else []
    new = [torch.stack([x[row, lengths[row]] for row in rows])[:, None] for x in tokens]
    new += [torch.stack([x[row, ..., lengths[row]] for row in rows])[..., None] for x in hashed]
    if is_lsh:
        past = [x.clone() for x in (*tokens, *hashed)]
        for row in rows:
            for cache in past:  # nothing may read what is not held
                behind = cache[row, ..., lengths[row] :] if cache.dim() == 4 else cache[row, lengths[row] :]
                behind.fill_(7)
    else:
        past = [_roll(x, lengths, (shape.before + 1) * shape.chunk) for x in tokens[1:]]
    return [*new, *past, lengths, torch.ones_like(lengths)], attributes


def make_buckets_step(shape: Shape, dtype: torch.dtype, seed: int = 0) -> Case:
    """As `make_step`. Small integers, whose products are exact in every type and often tie."""
    generator = torch.Generator().manual_seed(seed)
    multiple = math.ceil(shape.length / 24)
    planes = (1 if shape.batch > 1 else shape.heads, shape.head_size, shape.rounds)
    rotations = torch.randint(
        -2, 3, (*planes, math.ceil(shape.length / multiple)), generator=generator
    ).float()
    size = (shape.batch, shape.length, shape.heads * shape.head_size)
    tokens = torch.randint(-2, 3, size, generator=generator).to(dtype)
    lengths = torch.randint(0, shape.length, (shape.batch,), generator=generator, dtype=torch.int32)
    lines = shape.rounds * count_record_words(rotations.shape[3])
    empty = torch.full((shape.batch, shape.heads, lines, shape.length), 7, dtype=torch.int32)
    *_, past = lsh_buckets_step_reference(
        *(tokens, rotations, empty, torch.zeros_like(lengths), lengths, shape.heads, multiple)
    )
    new = torch.stack([tokens[row, lengths[row]] for row in range(shape.batch)])[:, None]
    attributes = {"num_heads": shape.heads, "padding_multiple": multiple}
    return [new, rotations, past, lengths, torch.ones_like(lengths)], attributes


def _roll(tokens: torch.Tensor, lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Rings [B, size, W] of each row's last tokens, position p at p modulo size."""
    rings = torch.full((len(lengths), size, tokens.shape[2]), 7.0, dtype=tokens.dtype)
    for row, length in enumerate(lengths.tolist()):
        positions = torch.arange(max(0, length - size), length)
        rings[row, positions % size] = tokens[row, positions]
    return rings


def make_case(operator: str, shape: Shape, dtype: torch.dtype, seed: int = 0) -> Case:
    """A case of the operator by its ONNX name."""
    if operator == "LSHBuckets":
        return make_buckets(shape, dtype, (8, 4), seed)
    if operator in ("ResidualNorm", "FinalNorm"):
        return make_norm(operator, shape, dtype, seed)
    if operator == "LSHBucketsStep":
        return make_buckets_step(shape, dtype, seed)
    if operator.endswith("Step"):
        return make_step(operator, shape, dtype, seed)
    return (make_lsh if operator == "LSHAttention" else make_local)(shape, dtype, seed)
