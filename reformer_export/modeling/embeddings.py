"""Word and position embeddings, computed for the tokens at hand only."""

from __future__ import annotations

import torch
from torch import nn

from reformer_export.modeling.casts import cast
from reformer_export.spec import AxialPositionsSpec, LearnedPositionsSpec, ModelSpec


class AxialPositionEmbeddings(nn.Module):
    """Position p's vector is the concatenation of one row per axis, at p's coordinates in the axial grid.

    Rows are gathered per axis; the table of all positions (positions x hidden_size) is never made.
    """

    def __init__(self, spec: AxialPositionsSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.weights = nn.ParameterList()
        for axis, (size, dim) in enumerate(zip(spec.shape, spec.dims, strict=True)):
            ones = [1] * len(spec.shape)
            ones[axis] = size
            self.weights.append(nn.Parameter(torch.empty(*ones, dim), requires_grad=False))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> T [..., hidden_size]."""
        rows = []
        stride = 1
        for size, weight in zip(reversed(self.shape), reversed(list(self.weights)), strict=True):
            coordinate = torch.remainder(positions // stride, size)
            rows.append(nn.functional.embedding(coordinate, weight.view(size, -1)))
            stride *= size
        return torch.cat(rows[::-1], dim=-1)


class LearnedPositionEmbeddings(nn.Module):
    """One learned vector per position."""

    def __init__(self, spec: LearnedPositionsSpec, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.num_positions, hidden_size)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> T [..., hidden_size]."""
        embedded: torch.Tensor = self.embedding(positions)
        return embedded


class Embeddings(nn.Module):
    """Word embedding plus position embedding, added in float32: the start of the residual streams."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.max_length = spec.max_length
        self.word_embeddings = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.position_embeddings: nn.Module
        if isinstance(spec.positions, AxialPositionsSpec):
            self.position_embeddings = AxialPositionEmbeddings(spec.positions)
        else:
            assert isinstance(spec.positions, LearnedPositionsSpec)
            self.position_embeddings = LearnedPositionEmbeddings(spec.positions, spec.hidden_size)

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [B, L], and int32 [B], the tokens before them, or None for none -> float32
        [B, L, hidden_size]."""
        positions = self._number(input_ids, lengths)
        words: torch.Tensor = self.word_embeddings(input_ids)
        return self._add(words, positions)

    def embed_vectors(self, words: torch.Tensor) -> torch.Tensor:
        """The words' vectors, T [B, L, hidden_size] -> float32 [B, L, hidden_size]."""
        return self._add(words, self._number(words, None))

    def _number(self, tokens: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """[B, L] or [B, L, N] -> int64 [L] or [B, L], their positions."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        if lengths is None:
            # Beyond the model's length there are fewer positions than words, and adding them fails in any
            # runtime: a gather beyond its table would give zeros on a GPU, and axial coordinates wrap around.
            return positions[: self.max_length]
        # Beyond it lie ids behind a row's own ones, if any.
        return (positions + lengths[:, None].to(torch.int64)).clamp(0, self.max_length - 1)

    def _add(self, words: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        where: torch.Tensor = self.position_embeddings(positions)
        return cast(words, torch.float32) + cast(where, torch.float32)
