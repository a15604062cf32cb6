"""Drift from whole passes, on a runtime whose drift is known."""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reformer_export.measure import drift
from reformer_export.measure.accuracy import TokenText
from reformer_export.measure.drift import count_drift_passes, measure_drift
from reformer_export.measure.drift_result import DriftResult

VOCABULARY = 7


def whole_logits(ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """After each token: the one above it is the likeliest."""
    return np.stack([np.roll(np.arange(VOCABULARY), int(token)) for token in ids]).astype(np.float32)


class Drifting:
    """A model whose steps differ from its passes by a hundredth of the position, all tokens alike but the
    first, which differs by twice as much."""

    def __init__(self, logits: str = "all", max_length: int = 40) -> None:
        self.spec = SimpleNamespace(vocab_size=VOCABULARY, logits=logits)
        self.max_length = max_length
        self.passes: list[int] = []
        self.ids: list[int] = []

    def run(self, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        self.passes.append(ids.shape[1])
        logits = whole_logits(ids[0])
        return {"logits": logits[None] if self.spec.logits == "all" else logits[None, -1:]}

    @contextmanager
    def start_decoding(self) -> Any:
        yield self

    def add(self, prompt: list[int]) -> int:
        self.ids = list(prompt)
        return 5

    def step(self, tokens: dict[int, int]) -> None:
        self.ids.append(tokens[5])

    def logits(self, key: int) -> NDArray[np.float32]:
        assert key == 5
        step = np.full(VOCABULARY, len(self.ids) / 100, np.float32)
        step[0] *= 2
        return whole_logits(np.array(self.ids[-1:]))[0] + step


def measure(model: Drifting, *arguments: Any, **options: Any) -> DriftResult:
    return measure_drift(model, *arguments, **options)  # type: ignore[arg-type]


def make_text(tokens: int, characters: int | None = None) -> TokenText:
    return TokenText(np.arange(tokens) * 3 % VOCABULARY, characters or tokens)


def test_points_are_the_differences() -> None:
    model, done = Drifting(), []
    result = measure(model, make_text(30), "text", on_pass=done.append)
    assert [point.length for point in result.points] == list(range(8, 31))
    for point in result.points:
        assert point.largest == pytest.approx(2 * point.length / 100, abs=1e-5)
        assert point.typical == pytest.approx(point.length / 100, abs=1e-5)
        assert point.spread == pytest.approx(2.0)
    assert result.largest == pytest.approx(0.6, abs=1e-5)
    assert result.typical == pytest.approx(0.19, abs=1e-5)
    assert sum(done) == len(result.points) == count_drift_passes(model, make_text(30))  # type: ignore[arg-type]
    assert (result.text, result.longest, result.is_cut) == ("text", 40, False)


def test_another_token_first_is_told() -> None:
    """Beyond 100 positions a difference of two tokens is one in their order."""
    result = measure(Drifting(max_length=400), make_text(400))
    parted = [point.length for point in result.points if not point.agrees]
    assert parted
    assert min(parted) > 100
    assert result.agreement == 1 - len(parted) / len(result.points)


def test_bits_are_of_the_same_tokens_three_ways() -> None:
    text = make_text(30, characters=15)
    result = measure(Drifting(), text)
    assert result.bits is not None
    assert result.bits.tokens == 22  # the last one has no token after it
    logits = whole_logits(text.ids).astype(np.float64)
    losses = np.log(np.exp(logits).sum(1))[7:29] - logits[np.arange(7, 29), text.ids[8:]]
    expected = losses.mean() / math.log(2) * 2
    assert result.bits.prefix == pytest.approx(expected)
    assert result.bits.forced == pytest.approx(expected)
    frozen = logits + np.arange(1, 31)[:, None] / 100 * ([2] + [1] * 6)
    losses = np.log(np.exp(frozen).sum(1))[7:29] - frozen[np.arange(7, 29), text.ids[8:]]
    assert result.bits.frozen == pytest.approx(losses.mean() / math.log(2) * 2, abs=1e-6)


def test_sequences_follow_each_other() -> None:
    result = measure(Drifting(), make_text(95), length=20)
    assert {point.sequence for point in result.points} == {0, 1, 2, 3}
    assert result.longest == 20
    assert measure(Drifting(), make_text(3)).points[0].length == 3


def test_the_model_writes_a_text_of_its_own() -> None:
    first, again, other = (measure(Drifting(), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.points != other.points
    assert (first.text, first.bits) == (None, None)
    assert max(point.length for point in first.points) == 40
    assert first.points[0].frozen_loss is None


def test_logits_of_the_last_token_have_no_one_pass_over_all() -> None:
    result = measure(Drifting("last"), make_text(20))
    assert result.bits is None
    assert len(result.points) == 13


def test_time_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured by then is spread over the sequence."""
    now = [0.0]

    class Slow(Drifting):
        def run(self, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
            now[0] += 1.0
            return super().run(ids)

    monkeypatch.setattr(drift.time, "monotonic", lambda: now[0])
    result = measure(Slow(), make_text(95), length=40, max_seconds=6.5)
    assert result.is_cut
    assert [point.length for point in result.points] == [11, 15, 23, 31, 39, 40]
    assert "the time of 60 s ended before the rest" in result.describe()


def test_slow_steps_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow(Drifting):
        def step(self, tokens: dict[int, int]) -> None:
            now[0] += 1.0
            super().step(tokens)

    monkeypatch.setattr(drift.time, "monotonic", lambda: now[0])
    result = measure(Slow(), max_seconds=30)
    assert max(point.length for point in result.points) == 8 + 11
    assert result.is_cut
    assert not [point for point in result.points if point.length > 19]


def test_words_and_json() -> None:
    result = measure(Drifting(), make_text(30), "held-out.txt")
    told = result.describe()
    assert told.startswith(
        "Drift from the whole pass, which is not judged, at 23 prefixes of held-out.txt, up to"
    )
    assert "logits differ by 0.6 at most, 0.19 typically; the same token comes first in 100.0%" in told
    assert "bits per character over 22 of them" in told
    assert "text of its own" in measure(Drifting()).describe()
    values = result.to_dict()
    assert len(values["points"]) == 23
    assert set(values["bits_per_character"]) == {"tokens", "frozen", "prefix", "forced"}
