"""Choose the next token from its logits, in numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line_repr


def require_integer(name: str, value: object, minimum: int) -> None:
    """InputError unless `value` is an integer of at least `minimum`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise InputError(name, one_line_repr(value), f"an integer from {minimum} up", "choose another")


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw a token.

    `temperature` divides the logits; 0 always takes the likeliest token. `top_k` keeps the k likeliest
    tokens (None: all). `top_p` then keeps the likeliest tokens whose probabilities first sum to at least
    `top_p` (Holtzman et al. 2020, section 3.1).
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not (_is_finite(self.temperature) and self.temperature >= 0):
            raise InputError(
                "temperature", one_line_repr(self.temperature), "0 or more", "0 takes the likeliest token"
            )
        if self.top_k is not None:
            require_integer("top_k", self.top_k, 1)
        if not (_is_finite(self.top_p) and 0 < self.top_p <= 1):
            raise InputError(
                "top_p", one_line_repr(self.top_p), "above 0 and at most 1", "1 keeps all tokens"
            )


def sample_token(logits: NDArray[np.float32], options: SamplingOptions, rng: np.random.Generator) -> int:
    """Draw a token id from `logits` (float32 [vocab_size]); equal logits are ordered by the lower id.

    One number is drawn from `rng`, none when the temperature is 0.
    """
    likeliest = int(logits.argmax())  # a NaN, where there is one
    if not math.isfinite(logits[likeliest]):
        raise InputError("logits", "NaN or infinity", "finite numbers", 'export with `dtype="float32"`')
    if options.temperature == 0:
        return likeliest
    order = (-logits).argsort(kind="stable")[: options.top_k]
    with np.errstate(over="ignore"):
        scores = (logits[order].astype(np.float64) - float(logits[order[0]])) / options.temperature
    cumulative = np.exp(scores).cumsum()
    if options.top_p < 1:
        kept = int(cumulative.searchsorted(options.top_p * cumulative[-1], side="left")) + 1
        cumulative = cumulative[:kept]
    drawn = cumulative.searchsorted(rng.random() * cumulative[-1], side="right")
    return int(order[min(int(drawn), len(cumulative) - 1)])
