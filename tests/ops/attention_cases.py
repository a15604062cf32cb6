"""Random calls of LSHAttention and LocalAttention, and the contract in plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.contract import NO_SELF_LOGIT
from reformer_export.spec import padded_length
from tests.ops.backends import Arrays, random_mask


def make_case(
    rng: np.random.Generator, operator: str, dtype: type = np.float32, max_length: int = 70
) -> tuple[Arrays, dict[str, Any]]:
    """Random inputs and attributes of an operator."""
    heads, size = int(rng.integers(1, 4)), int(rng.integers(1, 12))
    chunk, other = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    batch, length = int(rng.integers(1, 4)), int(rng.integers(1, max_length))
    attributes: dict[str, Any] = {
        "num_heads": heads,
        "chunk_length": chunk,
        "num_chunks_before": int(rng.integers(0, 4)),
        "num_chunks_after": int(rng.integers(0, 4)),
        "is_causal": bool(rng.integers(0, 2)),
        "padding_multiple": math.lcm(chunk, other),
        "padding_threshold": min(chunk, other),
    }
    attributes |= draw_variations(rng, operator, chunk)
    names = ("query_key", "value") if operator == "LSHAttention" else ("query", "key", "value")
    inputs = {name: rng.standard_normal((batch, length, heads * size)).astype(dtype) for name in names}
    mask = random_mask(rng, batch, length)
    if operator == "LSHAttention":
        count = int(rng.integers(1, 9))
        buckets = rng.integers(0, count, (batch, heads, int(rng.integers(1, 6)), length))
        inputs["buckets"] = np.where(mask[:, None, None] == 0, count, buckets).astype(np.int32)
    inputs["attention_mask"] = mask
    return inputs, attributes


def draw_variations(rng: np.random.Generator, operator: str, chunk: int) -> dict[str, Any]:
    """The attributes by which Reformers differ, in half of the cases transformers'."""
    others = rng.random() < 0.5
    self_logit = float(rng.choice([-1e5, -5e4, -1e8, -2.0, 0.0, 3.0])) if others else -1e5
    if operator.startswith("LSHAttention"):
        dense = int(rng.choice([0, chunk, 3 * chunk, 20, 2**31 - 1])) if others else chunk
        drawn = {"key_norm_epsilon": 1e-6, "self_logit": self_logit, "dense_threshold": dense}
        return drawn | ({"padding_threshold": 0} if dense < chunk else {})
    absent = not others or rng.random() < 0.3
    return {
        "self_logit": NO_SELF_LOGIT if absent else self_logit,
        "wraps": not others or bool(rng.random() < 0.3),
    }


def brute_force(operator: str, inputs: Arrays, attributes: dict[str, Any]) -> NDArray[Any]:
    """The contract, one query at a time in float64 (every lse rounded to float32)."""
    heads, chunk = attributes["num_heads"], attributes["chunk_length"]
    x = {name: value for name, value in inputs.items() if value.ndim == 3}
    batch, length, width = next(iter(x.values())).shape
    padded = padded_length(length, attributes["padding_multiple"], attributes["padding_threshold"])
    before, after = attributes["num_chunks_before"], attributes["num_chunks_after"]
    buckets = inputs.get("buckets", np.zeros((batch, heads, 1, length), np.int32))
    if padded <= attributes.get("dense_threshold", chunk):
        padded = chunk = length
        before = after = 0
        buckets = np.zeros((batch, heads, 1, length), np.int32)
    x = {k: np.pad(v.astype(np.float64), ((0, 0), (0, padded - length), (0, 0))) for k, v in x.items()}
    x = {k: v.reshape(batch, padded, heads, -1) for k, v in x.items()}
    mask = np.pad(inputs["attention_mask"], ((0, 0), (0, padded - length)))
    out = np.zeros((batch, padded, heads, width // heads))
    for b, h in np.ndindex(batch, heads):
        out[b, :, h] = _attend(operator, x, b, h, buckets[b, h], mask[b], chunk, before, after, attributes)
    return out[:, :length].reshape(batch, length, width)


def _attend(operator, x, b, h, buckets, mask, chunk, before, after, attributes):
    rounds, length = buckets.shape
    padded = len(mask)
    ranked = np.pad(buckets.astype(np.int64), ((0, 0), (0, padded - length)), constant_values=2**40)
    order = [p for r in range(rounds) for p in sorted(range(padded), key=lambda q, r=r: (ranked[r, q], q))]
    num_chunks = len(order) // chunk
    values = x["value"][b, :, h]
    queries = x["query_key" if operator == "LSHAttention" else "query"][b, :, h]
    size = queries.shape[1]
    if operator == "LSHAttention":
        keys = queries / np.sqrt((queries**2).mean(1, keepdims=True) + 1e-6) / math.sqrt(size)
    else:
        keys = x["key"][b, :, h] / math.sqrt(size)
    partial = np.zeros((rounds, padded, size))
    lse = np.zeros((rounds, padded), np.float32)
    for slot, i in enumerate(order):
        neighbours = [slot // chunk + s for s in range(-before, after + 1)]
        if attributes.get("wraps", True):
            apart = [n - slot // chunk for n in neighbours]
            neighbours = [slot // chunk + (0 if abs(s) > num_chunks else s) for s in apart]
        else:
            neighbours = [n for n in neighbours if 0 <= n < num_chunks]
        window = [order[n % num_chunks * chunk + k] for n in neighbours for k in range(chunk)]
        logits = np.empty(len(window))
        for n, j in enumerate(window):
            hidden = not mask[j] or (attributes["is_causal"] and j > i)
            logits[n] = -1e9 if hidden else queries[i] @ keys[j]
            if i == j and attributes["self_logit"] != NO_SELF_LOGIT:
                logits[n] = attributes["self_logit"]
        rounded = np.float32(logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        lse[slot // padded, i] = rounded
        partial[slot // padded, i] = np.exp(logits - rounded) @ values[window]
    greatest = lse.max(0).astype(np.float64)
    total = (greatest + np.log(np.exp(lse - greatest).sum(0))).astype(np.float32)
    return (np.exp(lse.astype(np.float64) - total)[..., None] * partial).sum(0)
