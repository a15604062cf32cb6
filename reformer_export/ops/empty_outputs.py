"""What each operator gives, by its name: empty tensors of the shapes and types for its arguments.

`torch.export` asks for them in place of numbers, and the native kernels write into them.
"""

from __future__ import annotations

import torch


def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def lsh_buckets(query_key: torch.Tensor, rotations: torch.Tensor, *_: object) -> torch.Tensor:
    shape = (query_key.shape[0], rotations.shape[0], rotations.shape[2], query_key.shape[1])
    return query_key.new_empty(shape, dtype=torch.int32)


def lsh_attention(query_key: torch.Tensor, *_: object) -> torch.Tensor:
    return _like(query_key)


def local_attention(query: torch.Tensor, *_: object) -> torch.Tensor:
    return _like(query)


def residual_norm(stream: torch.Tensor, update: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    return _like(stream), _like(update)


def final_norm(
    _other: torch.Tensor, _stream: torch.Tensor, update: torch.Tensor, scale: torch.Tensor, *_: object
) -> torch.Tensor:
    return update.new_empty((*update.shape[:-1], *scale.shape))


def lsh_attention_step(
    query_key: torch.Tensor,
    value: torch.Tensor,
    new_buckets: torch.Tensor,
    past_query_key: torch.Tensor,
    past_value: torch.Tensor,
    past_buckets: torch.Tensor,
    *_: object,
) -> tuple[torch.Tensor, ...]:
    return tuple(map(_like, (query_key, past_query_key, past_value, past_buckets)))


def local_attention_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
    *_: object,
) -> tuple[torch.Tensor, ...]:
    return tuple(map(_like, (query, past_key, past_value)))


def lsh_buckets_step(
    query_key: torch.Tensor, rotations: torch.Tensor, past_records: torch.Tensor, *_: object
) -> tuple[torch.Tensor, ...]:
    batch, heads, _words, capacity = past_records.shape
    rounds = rotations.shape[2]
    return (
        past_records.new_empty((batch, heads, rounds, query_key.shape[1])),
        past_records.new_empty((batch, heads, rounds, capacity)),
        _like(past_records),
    )


def linear(x: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
