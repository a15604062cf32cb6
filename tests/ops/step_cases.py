"""Random calls of the step operators, and what the whole operators say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ops.attention_cases import draw_variations
from tests.ops.backends import Arrays, run_reference

WHOLE = {"LSHAttentionStep": "LSHAttention", "LocalAttentionStep": "LocalAttention"}
GARBAGE = 7.0
"""Where a row has no token: nothing may read it."""


@dataclass(frozen=True)
class Case:
    """A call, and the tensors [1, L, ...] of each row's whole sequence."""

    inputs: Arrays
    attributes: dict[str, Any]
    sequences: list[Arrays]


def draw_attributes(rng: np.random.Generator, operator: str) -> dict[str, Any]:
    chunk, other = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    attributes = {
        "num_heads": int(rng.integers(1, 4)),
        "chunk_length": chunk,
        "num_chunks_before": int(rng.integers(0, 4)),
        "num_chunks_after": 0,
        "is_causal": True,
        "padding_multiple": math.lcm(chunk, other),
        "padding_threshold": min(chunk, other),
    }
    return attributes | draw_variations(rng, WHOLE[operator], chunk)


def draw_lengths(rng: np.random.Generator, batch: int, longest: int) -> tuple[list[int], list[int]]:
    """Tokens held and new tokens of each row: steps, prompts, rows without any, unlike lengths."""
    held = [int(x) for x in rng.integers(0, longest, batch)]
    new = [int(rng.random() < 0.9) for _ in range(batch)]
    if rng.random() < 0.4:
        row = int(rng.integers(0, batch))
        held[row], new[row] = 0, int(rng.integers(1, longest))
    return held, new


def draw_bucket_count(rng: np.random.Generator) -> int:
    """Few, as many as tokens, or the products of factors: up to what int32 holds."""
    return int(rng.choice([1, 2, 4, 8, 64, 8 * 16, 64 * 128, 2**31 - 2]))


def make_case(
    rng: np.random.Generator,
    operator: str,
    dtype: type = np.float32,
    longest: int = 60,
    attributes: dict[str, Any] | None = None,
    lengths: tuple[list[int], list[int]] | None = None,
) -> Case:
    attributes = attributes or draw_attributes(rng, operator)
    held, new = lengths or draw_lengths(rng, int(rng.integers(1, 5)), longest)
    heads, width = attributes["num_heads"], attributes["num_heads"] * int(rng.integers(1, 12))
    names = ("query_key", "value") if operator == "LSHAttentionStep" else ("query", "key", "value")
    rounds, count = int(rng.integers(1, 6)), draw_bucket_count(rng)
    sequences = []
    for total in (h + n for h, n in zip(held, new, strict=True)):
        row = {name: rng.standard_normal((1, total, width)).astype(dtype) for name in names}
        if operator == "LSHAttentionStep":
            row["buckets"] = rng.integers(0, count, (1, heads, rounds, total)).astype(np.int32)
        sequences.append(row)
    room = max(1, *new) + int(rng.integers(0, 2))
    capacity = max(1, *(h + n for h, n in zip(held, new, strict=True))) + int(rng.integers(0, 5))
    ring = (attributes["num_chunks_before"] + 1) * attributes["chunk_length"]
    inputs: Arrays = {}
    for name in names:
        inputs[name] = stack([row[name][:, h:] for row, h in zip(sequences, held, strict=True)], room)
    if operator == "LSHAttentionStep":
        fresh = [row["buckets"][..., h:] for row, h in zip(sequences, held, strict=True)]
        inputs["new_buckets"] = stack(fresh, room, 3)
    for name in names[operator == "LocalAttentionStep" :]:
        past = [row[name][:, :h] for row, h in zip(sequences, held, strict=True)]
        made = stack(past, capacity) if operator == "LSHAttentionStep" else roll(past, ring)
        inputs[f"past_{name}"] = made
    if operator == "LSHAttentionStep":
        past = [row["buckets"][..., :h] for row, h in zip(sequences, held, strict=True)]
        inputs["past_buckets"] = stack(past, capacity, 3)
    inputs["lengths"] = np.array(held, np.int32)
    inputs["new_lengths"] = np.array(new, np.int32)
    return Case(inputs, attributes, sequences)


def stack(rows: list[NDArray[Any]], size: int, axis: int = 1) -> NDArray[Any]:
    """The rows' tensors as one, with garbage up to `size` along `axis`."""
    padded = []
    for row in rows:
        pads = [(0, 0)] * row.ndim
        pads[axis] = (0, size - row.shape[axis])
        padded.append(np.pad(row, pads, constant_values=GARBAGE))
    return np.concatenate(padded)


def roll(rows: list[NDArray[Any]], size: int) -> NDArray[Any]:
    """Rings [B, size, W] of the rows' last tokens, position p at p modulo size."""
    rings = np.full((len(rows), size, rows[0].shape[2]), GARBAGE, rows[0].dtype)
    for ring, row in zip(rings, rows, strict=True):
        for position in range(max(0, row.shape[1] - size), row.shape[1]):
            ring[position % size] = row[0, position]
    return rings


def expected_output(operator: str, case: Case) -> NDArray[Any]:
    """The last rows of the whole operator over each row's sequence; zero behind them."""
    first = next(iter(case.inputs.values()))
    output = np.zeros_like(first)
    for row, (sequence, new) in enumerate(zip(case.sequences, case.inputs["new_lengths"], strict=True)):
        if new == 0:
            continue
        total = next(iter(sequence.values())).shape[1]
        inputs = sequence | {"attention_mask": np.ones((1, total), np.int32)}
        output[row, :new] = run_reference(WHOLE[operator], inputs, case.attributes)[0, -new:]
    return output


def expected_caches(operator: str, case: Case) -> list[NDArray[Any]]:
    """The caches with the new tokens in them."""
    caches = {name[5:]: value.copy() for name, value in case.inputs.items() if name.startswith("past_")}
    held, new = case.inputs["lengths"], case.inputs["new_lengths"]
    for name, cache in caches.items():
        for row, sequence in enumerate(case.sequences):
            for position in range(held[row], held[row] + new[row]):
                if name == "buckets":
                    cache[row, :, :, position] = sequence[name][0, :, :, position]
                else:
                    cache[row, position % cache.shape[1]] = sequence[name][0, position]
    return list(caches.values())
