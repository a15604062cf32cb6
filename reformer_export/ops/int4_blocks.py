"""Weights in int4, a scale for each block of what is multiplied: stored so, computed in the model's dtype."""

from __future__ import annotations

from typing import Final

import torch

from reformer_export.low_precision import INT4_BLOCK

INT4_LIMIT: Final = 7
"""The greatest whole number of a block; the least is its negative."""


def quantise_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of a linear module, [N, K], K a multiple of INT4_BLOCK -> whole numbers from -7 to 7, int8
    [K, N], and scales float32 [K / INT4_BLOCK, N]."""
    blocks = weight.float().T.reshape(-1, INT4_BLOCK, weight.shape[0])
    scales = blocks.abs().amax(1) / INT4_LIMIT
    scales = torch.where(scales == 0, 1.0, scales)
    whole = torch.round(blocks / scales[:, None]).clamp(-INT4_LIMIT, INT4_LIMIT)
    return whole.flatten(0, 1).to(torch.int8).contiguous(), scales


@torch.library.custom_op("reformer::dequantise_blocks", mutates_args=())
def dequantise_blocks(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Whole numbers int8 [K, N], scales T [K / INT4_BLOCK, N] -> T [K, N]; one DequantizeLinear in ONNX."""
    blocks = weight.reshape(-1, INT4_BLOCK, weight.shape[1]).to(scales.dtype)
    return (blocks * scales[:, None]).reshape(weight.shape)


@dequantise_blocks.register_fake
def _(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return scales.new_empty(weight.shape)
