"""What an Autopadder of reformer-pytorch pads sequences to, without a branch on the length."""

from __future__ import annotations

from typing import Protocol

import torch

from reformer_export.lucidrains_spec import LucidrainsSpec


def padded_length(spec: LucidrainsSpec, rows: torch.Tensor) -> int:
    """Tokens: what an Autopadder makes of int64 [B, L]."""
    if spec.pads_dense_lengths:
        return round_up_length(spec, rows.shape[1])
    return pad_above(spec, rows, spec.padding_threshold)


class Padding(Protocol):
    """What sequences are padded to."""

    @property
    def num_memory_keys(self) -> int:
        """Learned keys beside a sequence."""

    @property
    def padding_multiple(self) -> int:
        """Tokens: what both together are a multiple of."""


def round_up_length(spec: Padding, length: int) -> int:
    """Tokens: `length`, with padding to what reformer-pytorch hashes."""
    keys, multiple = spec.num_memory_keys, spec.padding_multiple
    return (length + keys + multiple - 1) // multiple * multiple - keys


def pad_above(spec: LucidrainsSpec, rows: torch.Tensor, threshold: int) -> int:
    """Tokens: the length of int64 [B, L] up to `threshold`, and above it with padding.

    A number of its own to torch.export, which cannot follow a length with a threshold.
    """
    length = rows.shape[1]
    stays = torch.ones_like(rows[0]).sum() <= threshold
    chosen: int = torch.where(stays, length, round_up_length(spec, length)).item()  # type: ignore[assignment]
    torch._check(chosen >= length)  # type: ignore[no-untyped-call]
    return chosen


def pad_rows(rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[B, L] or [B, L, N], the positions int64 [M] of the padded sequence -> [B, M] or [B, M, N], with zeros
    behind L."""
    length = rows.shape[1]
    inside, is_inside = torch.clamp(positions, max=length - 1), positions < length
    return torch.where(is_inside if rows.dim() == 2 else is_inside[:, None], rows.index_select(1, inside), 0)
