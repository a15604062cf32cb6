"""How far decoding with a frozen past drifts from whole passes over the same tokens: told, never judged.

A whole pass over every prefix lets each new token move the chunk borders of those before it; decoding keeps
what a token was when it was new (docs/operators.md). Neither is the truth of the other.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.measure.accuracy import TokenText, cut_sequences, sum_next_token_loss
from reformer_export.measure.drift_result import MAX_SECONDS, DriftBits, DriftPoint, DriftResult
from reformer_export.runtimes import Runtime

PROMPT_TOKENS: Final = 8
"""After which a sequence goes on by steps."""

MAX_TOKENS: Final = 4096
"""Of a sequence."""

MAX_POINTS: Final = 64
"""Prefixes of a sequence over which a whole pass goes, evenly spread."""

MAX_SEQUENCES: Final = 4
"""Of a text, its first."""


def measure_drift(
    runtime: Runtime,
    text: TokenText | None = None,
    name: str | None = None,
    length: int | None = None,
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    on_pass: Callable[[int], object] = lambda _count: None,
) -> DriftResult:
    """Decode sequences of `length` tokens (None: the longest, up to `MAX_TOKENS`) of `text`, called `name`,
    or one that the model writes by itself, and make whole passes over some of their prefixes.

    `on_pass` is called with 1 after each pass. The text's first sequences follow each other while there is
    time.

    Raises:
        InputError: the artifact has no decode.onnx, or this runtime does not decode.
    """
    clock = _Clock(time.monotonic(), max_seconds)
    longest = _longest(runtime, length)
    sequences: Sequence[NDArray[np.int64] | None] = [None]
    if text is not None:
        sequences = _cut(text, longest)
    points: list[DriftPoint] = []
    is_cut = False
    for number, ids in enumerate(sequences):
        if number and clock.share > 0.5:
            is_cut = True
            break
        decoded = _decode(runtime, ids, longest, clock, seed)
        forced = None if ids is None else _forced_losses(runtime, decoded.ids)
        found = list(_compare(runtime, decoded, forced, number, clock, on_pass))
        is_cut = is_cut or len(found) < decoded.chosen
        points += found
    points.sort(key=lambda point: (point.sequence, point.length))
    bits = None if text is None else _count_bits(points, text)
    return DriftResult(name, longest, tuple(points), is_cut, bits)


def count_drift_passes(runtime: Runtime, text: TokenText | None = None, length: int | None = None) -> int:
    """Passes over prefixes that `measure_drift` makes if the time suffices."""
    longest = _longest(runtime, length)
    sizes = [longest] if text is None else [len(ids) for ids in _cut(text, longest)]
    return sum(len(_spread(min(PROMPT_TOKENS, size), size)) for size in sizes)


def _longest(runtime: Runtime, length: int | None) -> int:
    return min(runtime.max_length, MAX_TOKENS if length is None else length)


def _cut(text: TokenText, longest: int) -> list[NDArray[np.int64]]:
    return cut_sequences(text.ids, longest)[:MAX_SEQUENCES]


@dataclass(frozen=True)
class _Clock:
    """When it began, and the seconds that there are."""

    start: float
    seconds: float

    @property
    def share(self) -> float:
        """Of the time that is over; above 1 there is no more."""
        return (time.monotonic() - self.start) / self.seconds


@dataclass(frozen=True)
class _Decoded:
    """A sequence int64 [L], and logits float32 [vocab_size] after some of its prefixes, by length; `chosen`
    is how many they were to be."""

    ids: NDArray[np.int64]
    logits: dict[int, NDArray[np.float32]]
    chosen: int


def _decode(
    runtime: Runtime, given: NDArray[np.int64] | None, longest: int, clock: _Clock, seed: int
) -> _Decoded:
    """Step through a given sequence, or one that the model draws from its own distribution."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, runtime.spec.vocab_size, longest) if given is None else given
    prompt = min(PROMPT_TOKENS, len(ids))
    chosen = set(_spread(prompt, len(ids)))
    latest = clock.share + 1 / 3
    logits = {}
    with runtime.start_decoding() as state:
        key = state.add(ids[:prompt].tolist())
        length = prompt
        while True:
            found = state.logits(key)
            if length in chosen:
                logits[length] = found
            if length == len(ids) or clock.share > latest:
                break
            if given is None:  # the largest of logits with Gumbel noise is a draw from their softmax
                ids[length] = int((found + rng.gumbel(size=found.shape)).argmax())
            state.step({key: int(ids[length])})
            length += 1
    return _Decoded(ids[:length], logits, len(chosen))


def _spread(first: int, last: int) -> list[int]:
    """Up to `MAX_POINTS` lengths from `first` to `last`, evenly."""
    return sorted({round(each) for each in np.linspace(first, last, MAX_POINTS)})


def _compare(
    runtime: Runtime,
    decoded: _Decoded,
    forced: NDArray[np.float64] | None,
    number: int,
    clock: _Clock,
    on_pass: Callable[[int], object],
) -> Iterator[DriftPoint]:
    """A whole pass for each of the kept prefixes, so ordered that those made when the time ends are spread
    over the sequence."""
    for length in _coarse_to_fine(sorted(decoded.logits)):
        if clock.share > 1:
            return
        whole = runtime.run(decoded.ids[None, :length])["logits"][0, -1]
        frozen = decoded.logits[length]
        difference = np.abs(frozen.astype(np.float64) - whole)
        losses: tuple[float | None, ...] = ()
        if forced is not None and length < len(decoded.ids):
            following = decoded.ids[length]
            losses = (_loss(frozen, following), _loss(whole, following), float(forced[length - 1]))
        on_pass(1)
        yield DriftPoint(
            number,
            length,
            float(difference.max()),
            float(np.median(difference)),
            float(whole.std()),
            bool(frozen.argmax() == whole.argmax()),
            *losses,
        )


def _coarse_to_fine(lengths: Sequence[int]) -> list[int]:
    """The last, then ever finer: every 2nd, 4th ... part's end that has not been."""
    order: dict[int, None] = dict.fromkeys(lengths[-1:])
    step = len(lengths)
    while step:
        order |= dict.fromkeys(lengths[step - 1 :: step])
        step //= 2
    return list(order)


def _loss(logits: NDArray[np.float32], following: np.int64) -> float:
    """-log p of the token `following`, nats; float32 [vocab_size]."""
    return sum_next_token_loss(logits[None], np.array([0, following]))


def _forced_losses(runtime: Runtime, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """By one pass over all of them, -log p of every token but the first; None where the model gives the last
    token's logits only, as nothing else could be read."""
    if runtime.spec.logits == "last":
        return None
    logits = runtime.run(ids[None])["logits"][0]
    return np.array([_loss(logits[i], ids[i + 1]) for i in range(len(ids) - 1)])


def _count_bits(points: Sequence[DriftPoint], text: TokenText) -> DriftBits | None:
    bits_a_nat = len(text.ids) / text.characters / math.log(2)
    losses = [
        (point.frozen_loss, point.prefix_loss, point.forced_loss)
        for point in points
        if point.frozen_loss is not None and point.prefix_loss is not None and point.forced_loss is not None
    ]
    if not losses:
        return None
    return DriftBits(
        len(losses), *(statistics.fmean(column) * bits_a_nat for column in zip(*losses, strict=True))
    )
