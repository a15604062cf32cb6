"""Words and positions of reformer-pytorch's models: embeddings, and the angles of rotary positions."""

from __future__ import annotations

import torch
from torch import nn

from reformer_export.lucidrains_spec import (
    LucidrainsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
)
from reformer_export.modeling.casts import cast
from reformer_export.modeling.embeddings import LearnedPositionEmbeddings
from reformer_export.modeling.lucidrains_attention import Turn
from reformer_export.spec import LearnedPositionsSpec


class SinusoidalPositionEmbeddings(nn.Module):
    """Sines, then cosines, of a position times each frequency."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(size // 2))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> float32 [..., size]."""
        angles = positions.float()[..., None] * self.get_buffer("frequencies")
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SummedAxialPositionEmbeddings(nn.Module):
    """The sum of one row per axis, at the position's coordinates in the grid."""

    def __init__(self, spec: SummedAxialPositionsSpec, size: int) -> None:
        super().__init__()
        self.shape = spec.shape
        self.weights = nn.ParameterList()
        for axis, length in enumerate(spec.shape):
            ones = [1] * len(spec.shape)
            ones[axis] = length
            self.weights.append(nn.Parameter(torch.empty(1, *ones, size), requires_grad=False))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> T [..., size]."""
        rows, stride = [], 1
        for length, weight in zip(reversed(self.shape), reversed(list(self.weights)), strict=True):
            coordinate = torch.remainder(positions // stride, length)
            rows.append(nn.functional.embedding(coordinate, weight.view(length, -1)))
            stride *= length
        total = rows.pop()
        while rows:
            total = total + rows.pop()
        return total


def _make_positions(spec: LucidrainsSpec) -> nn.Module | None:
    positions, size = spec.positions, spec.embedding_size
    if isinstance(positions, SummedAxialPositionsSpec):
        return SummedAxialPositionEmbeddings(positions, size)
    if isinstance(positions, SinusoidalPositionsSpec):
        return SinusoidalPositionEmbeddings(size)
    return LearnedPositionEmbeddings(positions, size) if isinstance(positions, LearnedPositionsSpec) else None


def limit_in_graph(spec: LucidrainsSpec, more: int = 0) -> int | None:
    """Where to cut the positions of a sequence, and of `more` beside it, so that there are fewer than tokens
    beyond the model's limit and adding the two fails; None where torch.export cannot follow the length."""
    return spec.position_limit + more if not spec.is_padded or spec.pads_dense_lengths else None


class Embeddings(nn.Module):
    """Word embedding, plus a position embedding but for rotary positions, projected to the model's width."""

    def __init__(self, spec: LucidrainsSpec) -> None:
        super().__init__()
        self.position_limit = limit_in_graph(spec)
        self.word_embeddings = nn.Embedding(spec.vocab_size, spec.embedding_size)
        self.position_embeddings = _make_positions(spec)
        self.projection = None
        if spec.embedding_size != spec.hidden_size:
            self.projection = nn.Linear(spec.embedding_size, spec.hidden_size)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [B, L], and int64 [B, L], the tokens' positions, or None for 0 to L - 1 -> float32
        [B, L, hidden_size]."""
        words: torch.Tensor = self.word_embeddings(input_ids)
        embedded = cast(words, torch.float32)
        if self.position_embeddings is not None:
            if positions is None:
                positions = torch.arange(input_ids.shape[1], device=input_ids.device)[: self.position_limit]
            embedded = embedded + cast(self.position_embeddings(positions), torch.float32)
        if self.projection is not None:
            embedded = cast(self.projection(cast(embedded, words.dtype)), torch.float32)
        return embedded


class RotaryPositions(nn.Module):
    """The angles by which LSH attention turns queries and keys: none for the memory, and none at all where
    attention is dense."""

    def __init__(self, spec: LucidrainsSpec) -> None:
        super().__init__()
        self.num_memory_keys, self.limit = spec.num_memory_keys, limit_in_graph(spec, spec.num_memory_keys)
        self.dense_threshold = spec.dense_threshold
        self.register_buffer("frequencies", torch.zeros(spec.head_size // 2))

    def forward(self, input_ids: torch.Tensor) -> Turn:
        """int64 [B, L] -> cosines and sines float32 [K, D / 2], K the memory's keys and L."""
        keys = self.num_memory_keys
        order = torch.arange(input_ids.shape[1] + keys, device=input_ids.device)[: self.limit]
        is_hashed = (order.amax(0, keepdim=True) >= self.dense_threshold).float()
        return self.turn(torch.clamp(order - keys, min=0).float() * is_hashed)

    def turn(self, positions: torch.Tensor) -> Turn:
        """float32 [...] -> cosines and sines float32 [..., D / 2]."""
        angles = positions[..., None] * self.get_buffer("frequencies")
        return angles.cos(), angles.sin()
