"""Stands in for parity.details.Details until that is a dataclass; then this file goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reformer_export.parity.hashing import AttentionPattern
from reformer_export.spec import DType


@dataclass(frozen=True)
class LayerError:
    layer: int
    kind: str
    point: str
    error: float
    greatest: float
    tolerance: float


@dataclass(frozen=True)
class LayerMargins:
    layer: int
    counts: tuple[int, ...]
    roundings: dict[DType, float]
    below: dict[DType, float]
    edges: tuple[float, ...]
    limit: float


@dataclass(frozen=True)
class Details:
    layers: tuple[LayerError, ...]
    margins: tuple[LayerMargins, ...]
    pattern: AttentionPattern | None


def details_from_values(values: dict[str, Any]) -> Details:
    """What collect_details returns today, typed."""
    return Details(
        tuple(LayerError(**row) for row in values["layers"]),
        tuple(LayerMargins(**row) for row in values["margins"]),
        AttentionPattern(**values["pattern"]) if values["pattern"] else None,
    )
