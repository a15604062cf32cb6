"""How a model knows where a token is: the kinds of positions of transformers' models, and of
reformer-pytorch's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from reformer_export.attention_spec import MEND_CONFIG, check_size
from reformer_export.errors import SpecError

MEND_KEYWORDS: Final = "mend the file of keyword arguments"


class PositionsSpec(Protocol):
    """How a model knows where a token is."""

    @property
    def num_positions(self) -> int:
        """Tokens: the greatest padded length that has positions."""


@dataclass(frozen=True)
class AxialPositionsSpec:
    """Axial position embeddings: position p has coordinates in a grid of `shape` (row-major), and its
    vector is the concatenation of one vector of `dims[axis]` elements per axis."""

    shape: tuple[int, ...]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.dims) > 0:
            raise SpecError(
                "axial_pos_shape and axial_pos_embds_dim",
                f"{len(self.shape)} and {len(self.dims)} axes",
                "the same number of axes, at least one",
                MEND_CONFIG,
            )
        for size in (*self.shape, *self.dims):
            check_size("axial_pos_shape / axial_pos_embds_dim", size)

    @property
    def num_positions(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class LearnedPositionsSpec:
    """A table of one learned vector per position."""

    num_positions: int

    def __post_init__(self) -> None:
        check_size("max_position_embeddings", self.num_positions)


@dataclass(frozen=True)
class SummedAxialPositionsSpec:
    """A position's vector is the sum of one learned vector per axis of a grid of `shape` (row-major)."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.shape:
            raise SpecError("axial_position_shape", "no axis", "at least one", MEND_KEYWORDS)
        for size in self.shape:
            check_size("axial_position_shape", size)

    @property
    def num_positions(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class UnlimitedPositionsSpec:
    """There are positions of any number; `num_positions` is a limit that was chosen."""

    num_positions: int

    def __post_init__(self) -> None:
        check_size("max_seq_len", self.num_positions)


class RotaryPositionsSpec(UnlimitedPositionsSpec):
    """LSH attention turns queries and keys by their positions."""


class SinusoidalPositionsSpec(UnlimitedPositionsSpec):
    """Sines and cosines of a position are its vector."""


class NoPositionsSpec(UnlimitedPositionsSpec):
    """The model is told nothing of positions; causality and chunks know them."""


LucidrainsPositions = LearnedPositionsSpec | SummedAxialPositionsSpec | UnlimitedPositionsSpec
