"""Product-key memory, a layer's feed-forward in some of reformer-pytorch's models (Lample et al. 2019).

Each query has two halves, each of which is compared with keys of its own; a memory is a pair of keys, and its
score the sum of the two. The queries' best memories, weighed by a softmax of their scores, are added up.

Which memories are chosen is a tensor of the graph, as buckets are, and the scores are read at what was
chosen: a comparison with eager can give eager's choice, and tell one that fell otherwise from wrong
arithmetic. All that decides it is float32 whatever T, the model's dtype, is.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from reformer_export.modeling.casts import InFloat32
from reformer_export.product_keys_spec import NUM_CHOSEN, NUM_QUERIES, QUERY_SIZE, ProductKeysSpec

NORM_EPSILON: Final = 1e-5
"""torch.nn.LayerNorm's own, which the package uses."""

SUMMED_AT_ONCE: Final = 8
"""Memories whose values are gathered together, N x 8 x width elements of T for N tokens: all 128 would be
gigabytes at great lengths, and were slower."""

HALVES: Final = (slice(0, NUM_QUERIES), slice(NUM_QUERIES, 2 * NUM_QUERIES))
"""Of the axis 2 * NUM_QUERIES."""


class QueryNorm(InFloat32):
    """Layer norm of each half of a query, or the affine map that a trained batch norm is; float32."""

    def __init__(self, spec: ProductKeysSpec) -> None:
        super().__init__()
        self.is_layer_norm = spec.query_norm == "layer"
        size = QUERY_SIZE if self.is_layer_norm else 2 * NUM_QUERIES * QUERY_SIZE
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """float32 [N, 2 * NUM_QUERIES * QUERY_SIZE] -> float32 [N, 2 * NUM_QUERIES, QUERY_SIZE]."""
        if not self.is_layer_norm:
            return (queries * self.weight + self.bias).reshape(-1, 2 * NUM_QUERIES, QUERY_SIZE)
        halves = queries.reshape(-1, 2 * NUM_QUERIES, QUERY_SIZE)
        return nn.functional.layer_norm(halves, self.weight.shape, self.weight, self.bias, NORM_EPSILON)


class KeyScores(InFloat32):
    """The keys of both halves of every query, and how well they fit."""

    def __init__(self, spec: ProductKeysSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * NUM_QUERIES, QUERY_SIZE, spec.num_keys))

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """float32 [N, 2 * NUM_QUERIES, QUERY_SIZE], all first halves before the second ones -> scores float32
        [N, 2 * NUM_QUERIES, num_keys]."""
        return torch.matmul(queries.transpose(0, 1), self.weight).transpose(0, 1)


class MemoryChoice(nn.Module):
    """The best memories of each query, the best first; of equal ones any (docs/reformer-pytorch.md)."""

    def __init__(self, spec: ProductKeysSpec) -> None:
        super().__init__()
        self.num_keys = spec.num_keys
        ranks = torch.tensor(possible_ranks(NUM_CHOSEN), device="cpu")
        self.register_buffer("ranks", ranks, persistent=False)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, 2 * NUM_QUERIES, num_keys] -> memories int64 [N, NUM_QUERIES, NUM_CHOSEN]: the
        first half's key * num_keys + the second's."""
        best, keys = torch.topk(scores, NUM_CHOSEN)
        halves = list(zip(HALVES, self.get_buffer("ranks").unbind(), strict=True))
        first, second = (best[:, half].index_select(2, rank) for half, rank in halves)
        pairs = torch.topk(first + second, NUM_CHOSEN).indices
        first, second = (
            torch.gather(keys[:, half], 2, rank.index_select(0, pairs.flatten()).reshape(pairs.shape))
            for half, rank in halves
        )
        return first * self.num_keys + second


def possible_ranks(count: int) -> tuple[list[int], list[int]]:
    """The ranks, from 0, of both halves' keys in a memory that can be among the best `count`.

    Of a pair (i, j) all pairs (a <= i, b <= j) score at least as much: with the pair itself (i + 1) (j + 1).
    """
    pairs = [(i, j) for i in range(count) for j in range(count) if (i + 1) * (j + 1) <= count]
    return [i for i, _ in pairs], [j for _, j in pairs]


class ProductKeyMemory(nn.Module):
    """What a memory adds for each token; called as the layers' feed-forward without its norm is."""

    def __init__(self, spec: ProductKeysSpec, hidden_size: int) -> None:
        super().__init__()
        self.num_keys = spec.num_keys
        self.query = nn.Linear(hidden_size, 2 * NUM_QUERIES * QUERY_SIZE, bias=False)
        self.query_norm = QueryNorm(spec)
        self.keys = KeyScores(spec)
        self.choice = MemoryChoice(spec)
        self.values = nn.Parameter(torch.zeros(spec.num_memories, hidden_size))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """T [N, hidden_size] -> T [N, hidden_size]."""
        scores = self.keys(self.query_norm(self.query(rows).float()))
        memories = self.choice(scores)
        keys = memories // self.num_keys, memories % self.num_keys
        chosen = [torch.gather(scores[:, half], 2, key) for half, key in zip(HALVES, keys, strict=True)]
        weights = torch.softmax(chosen[0] + chosen[1], dim=-1).to(rows.dtype)
        return self._add_up(memories.flatten(1), weights.flatten(1)).to(rows.dtype)

    def _add_up(self, memories: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """int64 [N, NUM_QUERIES * NUM_CHOSEN], T of that shape -> float32 [N, hidden_size]."""
        total = None
        for first in range(0, NUM_QUERIES * NUM_CHOSEN, SUMMED_AT_ONCE):
            some = slice(first, first + SUMMED_AT_ONCE)
            values = nn.functional.embedding(memories[:, some], self.values)
            part = torch.matmul(weights[:, None, some], values)[:, 0].float()
            total = part if total is None else total + part
        assert total is not None
        return total
