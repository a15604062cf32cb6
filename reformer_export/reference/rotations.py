"""Eager's draw of random rotations, answered with those of an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class GivenRotations(TorchFunctionMode):
    """Answers torch.randn, while `layer` is set, with the first rounds and buckets of that layer's rotations,
    float32 [1 or H, D, R, S]; where each head has its own, for one batch entry after the other.

    Eager's code runs as it is: a layer asks for numbers, sets a seed before that or not, and goes on with
    those that it gets. reformer-pytorch has no seed, and a seed's draw for fewer rounds is another draw.
    """

    def __init__(self, rotations: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._rotations = rotations
        self.layer: int | None = None
        self._given = 0

    def enter(self, layer: int | None) -> None:
        """The next draws are of `layer`; None for what is no layer's."""
        self.layer, self._given = layer, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.randn or self.layer is None:
            return func(*args, **(kwargs or {}))
        entries, _, rounds, half = args[0]
        rotations = self._rotations[self.layer][:, :, :rounds, :half]
        assert rotations.shape[2:] == (rounds, half)
        chosen = (torch.arange(entries) + self._given) % len(rotations)
        self._given += entries if len(rotations) > 1 else 0  # slices of the batch and the heads, in turn
        return rotations[chosen].to(**(kwargs or {}))
