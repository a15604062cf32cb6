"""Types of tensors in the canonical models."""

from __future__ import annotations

import torch
from torch import nn


class InFloat32(nn.Module):
    """A module whose parameters are float32 whatever T is."""


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` in `dtype`; torch.export would record a cast that changes nothing, and take its time over it."""
    return x if x.dtype == dtype else x.to(dtype)
