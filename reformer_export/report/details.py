"""Stands in for parity.details.Details and parity.layer_errors.LayerError; it goes when they are there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from reformer_export.parity.hashing import MARGIN_EDGES, AttentionPattern, MarginHistogram


@dataclass(frozen=True)
class LayerError:
    layer: int
    kind: str
    point: str
    error: float
    greatest: float
    tolerance: float


@dataclass(frozen=True)
class Details:
    layers: tuple[LayerError, ...]
    margins: tuple[MarginHistogram, ...]
    pattern: AttentionPattern | None
    limit: float

    def to_dict(self) -> dict[str, Any]:
        shared = {"edges": list(MARGIN_EDGES), "limit": self.limit}
        return {
            "layers": [dataclasses.asdict(row) for row in self.layers],
            "margins": [dataclasses.asdict(histogram) | shared for histogram in self.margins],
            "pattern": None if self.pattern is None else dataclasses.asdict(self.pattern),
        }


def details_from_values(values: dict[str, Any]) -> Details:
    fields = [field.name for field in dataclasses.fields(MarginHistogram)]
    return Details(
        tuple(LayerError(**row) for row in values["layers"]),
        tuple(MarginHistogram(**{name: row[name] for name in fields}) for row in values["margins"]),
        AttentionPattern(**values["pattern"]) if values["pattern"] else None,
        values["margins"][0]["limit"] if values["margins"] else 0.0,
    )
