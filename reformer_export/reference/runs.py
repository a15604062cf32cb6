"""What an eager model is to a comparison, whichever package it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.reference.eager_values import Values


@dataclass(frozen=True)
class EagerRun:
    """What one eager forward pass gave.

    `outputs` maps the task's output names to float32 arrays; `buckets` maps an LSH layer's index to int32
    [B, H, R, L], zeros where eager did not hash because the sequence fits one chunk; `memories` a layer with
    product keys to what its queries chose, sorted, int64 [B * L, H, k]; `values` has those that were asked
    for, the outputs of spans, all buckets and all memories, by a point's name.
    """

    outputs: dict[str, NDArray[np.float32]]
    buckets: dict[int, NDArray[np.int32]]
    values: Values
    memories: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def chooses_as(self, other: EagerRun) -> bool:
        """Whether every hash and every choice of memories is the other run's."""
        pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
            *((self.buckets[layer], found) for layer, found in other.buckets.items()),
            *((self.memories[layer], found) for layer, found in other.memories.items()),
        ]
        return all(np.array_equal(mine, found) for mine, found in pairs)


class Eager(Protocol):
    """An eager model, which `model` is: any module that is called as its package says."""

    model: Any
    notes: tuple[str, ...]

    def run(
        self,
        inputs: NDArray[Any],
        attention_mask: NDArray[np.int64],
        num_hashes: int | None = None,
        points: Collection[str] | None = (),
    ) -> EagerRun:
        """One forward pass; ids int64 [B, L], or vectors float32 [B, L, hidden_size] for a model that takes
        those, and int64 [B, L]. `num_hashes` uses only the first of each LSH layer's rounds;
        `points` names the values to read besides the outputs; None for all."""

    def canonical_weights(self) -> dict[str, torch.Tensor]:
        """The model's own tensors, as `Checkpoint.weights` has them."""


@contextlib.contextmanager
def noisy_weights(model: Any, seed: int) -> Iterator[None]:
    """While the block runs, every weight of the module `model` is the next float32 above or below it, drawn
    by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    weights = [(weight, weight.detach().clone()) for weight in model.parameters()]
    try:
        with torch.no_grad():
            for weight, exact in weights:
                signs = torch.randint(0, 2, exact.shape, generator=generator) * 2 - 1
                weight.copy_(torch.nextafter(exact, signs * torch.inf))
        yield
    finally:
        with torch.no_grad():
            for weight, exact in weights:
                weight.copy_(exact)
