"""What was found of how far decoding drifts."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any, Final

MAX_SECONDS: Final = 60.0
"""After which no further step or pass begins; a third of it is for the steps of the first sequence."""


@dataclass(frozen=True)
class DriftPoint:
    """The two ways after the first `length` tokens of the sequence with this number.

    `largest` and `typical` (the median over the vocabulary): absolute difference of the logits; `spread`:
    standard deviation of the whole pass's; `agrees`: whether the same token comes first. Losses are -log p of
    the token that follows in the text, in nats: with the past frozen, of a whole pass over the prefix, and of
    one pass over the whole sequence (teacher-forced); None where the text is the model's own.
    """

    sequence: int
    length: int
    largest: float
    typical: float
    spread: float
    agrees: bool
    frozen_loss: float | None = None
    prefix_loss: float | None = None
    forced_loss: float | None = None


@dataclass(frozen=True)
class DriftBits:
    """Bits per character over the same `tokens` predicted tokens, three ways; see `DriftPoint`."""

    tokens: int
    frozen: float
    prefix: float
    forced: float


@dataclass(frozen=True)
class DriftResult:
    """Points over `text` (a file's name, None for what the model wrote itself), in sequences of at most
    `longest` tokens. `is_cut`: the time ended before every chosen prefix had its pass. `bits`: on a text
    that was given."""

    text: str | None
    longest: int
    points: tuple[DriftPoint, ...]
    is_cut: bool
    bits: DriftBits | None

    @property
    def largest(self) -> float:
        """Of all points."""
        return max((point.largest for point in self.points), default=0.0)

    @property
    def typical(self) -> float:
        """The median over the points."""
        return statistics.median(point.typical for point in self.points) if self.points else 0.0

    @property
    def agreement(self) -> float:
        """The share of points at which the same token comes first, 0 to 1."""
        return statistics.fmean(point.agrees for point in self.points) if self.points else 1.0

    def describe(self) -> str:
        """A sentence."""
        where = "text of its own" if self.text is None else self.text
        cut = f" (the time of {MAX_SECONDS:.0f} s ended before the rest)" if self.is_cut else ""
        told = (
            f"Drift from the whole pass, which is not judged, at {len(self.points)} prefixes of {where}, up "
            f"to {max((point.length for point in self.points), default=0):,} tokens{cut}: logits differ by "
            f"{self.largest:.2g} at most, {self.typical:.2g} typically; the same token comes first in "
            f"{self.agreement:.1%}"
        )
        if self.bits is None:
            return told
        bits = self.bits
        return (
            f"{told}; bits per character over {bits.tokens} of them: {bits.frozen:.4f} with the past frozen, "
            f"{bits.prefix:.4f} by a whole pass each, {bits.forced:.4f} by one pass over all"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "text": self.text,
            "longest": self.longest,
            "is_cut": self.is_cut,
            "largest": self.largest,
            "typical": self.typical,
            "agreement": self.agreement,
            "bits_per_character": self.bits and dataclasses.asdict(self.bits),
            "points": [dataclasses.asdict(point) for point in self.points],
        }
