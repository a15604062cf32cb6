"""Which of a model's weights an artifact stores in few bits, by the projections that they are of."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from reformer_export.errors import InputError, SpecError

WeightsType = Literal["int8", "int4"]
WEIGHTS_TYPES: Final[tuple[WeightsType, ...]] = ("int8", "int4")

PROJECTIONS: Final = ("query_key", "query", "key", "value", "output", "inner", "outer", "head")
"""Kinds of dense layers: of the attention, of the feed-forward, and a language model's head. All others stay
as they are: embeddings and what projects them, the small heads of classifiers and spans, and what asks a
product-key memory, whose choice it decides."""

KEPT_BY_DEFAULT: Final[tuple[str, ...]] = ()
"""None: docs/low-precision.md has the measurement."""

INT4_BLOCK: Final = 32
"""Weights of one output that have a scale in common in int4."""

INT4_MIN_OPSET: Final = 21
"""The first whose DequantizeLinear knows blocks, and int4."""

_MODULES: Final = re.compile(
    r"(?:.*\.)?(?:self_attention\.(?P<attention>query_key|query|key|value)|attention\.(?P<output>output)\.dense"
    r"|feed_forward\.(?P<slices>inner|outer)(?:\.\d+)?|lm_(?P<head>head)\.(?:decoder|projection))"
)


def projection_of(module: str) -> str | None:
    """Of a dense layer of the canonical models (modeling/), by its path; None for one that stays as it is."""
    match = _MODULES.fullmatch(module)
    return None if match is None else next(name for name in match.groups() if name is not None)


@dataclass(frozen=True)
class LowPrecision:
    """Dense layers with weights of `weights` bits; the projections `kept` have those of the artifact's
    dtype."""

    weights: WeightsType
    kept: tuple[str, ...] = KEPT_BY_DEFAULT

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS_TYPES:
            raise SpecError("weights", repr(self.weights), " or ".join(WEIGHTS_TYPES), "name one")
        check_kept(self.kept)

    def __str__(self) -> str:
        return f"{self.weights} weights" + (f" but for {', '.join(self.kept)}" if self.kept else "")

    def stores(self, module: str) -> bool:
        """Whether the dense layer at this path of the canonical model has such weights."""
        projection = projection_of(module)
        return projection is not None and projection not in self.kept


def check_kept(kept: Collection[str]) -> None:
    """InputError for what is no projection."""
    unknown = [name for name in kept if name not in PROJECTIONS]
    if unknown:
        raise InputError("keep", repr(unknown[0]), f"some of {', '.join(PROJECTIONS)}", "name one of them")
