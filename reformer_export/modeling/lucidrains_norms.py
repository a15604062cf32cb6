"""Norms of reformer-pytorch's layers beside the layer norm; called as StreamNorm is."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.casts import InFloat32, cast
from reformer_export.modeling.layers import (
    StreamNorm,
)

SCALE_NORM_EPSILON: Final = 1e-5
"""The least length that a vector is divided by (reformer_pytorch.py, ScaleNorm)."""


class ScaledLength(InFloat32):
    """Each vector of a float32 stream with one learned length; called as StreamNorm is."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.output_dtype = dtype

    def forward(
        self, stream: torch.Tensor, update: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, N], what to add to it or None -> the sum, T [B, L, N]."""
        stream = stream if update is None else stream + cast(update, torch.float32)
        length = stream.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=SCALE_NORM_EPSILON)
        return stream, cast(stream / length * self.weight, self.output_dtype)


class NoNorm(nn.Module):
    """The stream as it is; called as StreamNorm is."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.output_dtype = dtype

    def forward(
        self, stream: torch.Tensor, update: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stream float32 [B, L, N], what to add to it or None -> the sum, T [B, L, N]."""
        stream = stream if update is None else stream + cast(update, torch.float32)
        return stream, cast(stream, self.output_dtype)


def make_norm(spec: LucidrainsSpec, dtype: torch.dtype) -> nn.Module:
    if spec.norm == "layer":
        return StreamNorm(spec.hidden_size, spec.layer_norm_eps, dtype)
    return ScaledLength(dtype) if spec.norm == "scale" else NoNorm(dtype)
