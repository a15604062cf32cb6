from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from reformer_export.errors import InputError
from reformer_export.runtimes.sampling import SamplingOptions, sample_token

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
DRAWS = 8000


def draw_frequencies(logits: Any, options: SamplingOptions, count: int = DRAWS) -> Any:
    rng = np.random.default_rng(0)
    tokens = [sample_token(logits, options, rng) for _ in range(count)]
    return np.bincount(tokens, minlength=len(logits)) / count


def assert_close_to(frequencies: Any, expected: Any) -> None:
    """Of `DRAWS`: within 4 standard deviations each; exactly 0 where 0 is expected."""
    expected = np.asarray(expected)
    assert (np.abs(frequencies - expected) <= 4 * np.sqrt(expected * (1 - expected) / DRAWS)).all()


def test_temperature_1_draws_the_model_distribution() -> None:
    frequencies = draw_frequencies(LOGITS, SamplingOptions(temperature=1, top_p=1))
    assert_close_to(frequencies, [0.1, 0.4, 0.2, 0.3])


def test_temperature_divides_the_logits() -> None:
    squared = np.array([0.01, 0.16, 0.04, 0.09])
    assert_close_to(
        draw_frequencies(LOGITS, SamplingOptions(temperature=0.5, top_p=1)), squared / squared.sum()
    )


def test_temperature_0_takes_the_likeliest_and_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    assert sample_token(LOGITS, SamplingOptions(temperature=0), rng) == 1
    assert sample_token(np.zeros(5, np.float32), SamplingOptions(temperature=0), rng) == 0
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("temperature", [1e-300, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert draw_frequencies(LOGITS, SamplingOptions(temperature=temperature), 50)[1] == 1


def test_top_k_keeps_the_k_likeliest() -> None:
    options = SamplingOptions(temperature=1, top_k=2, top_p=1)
    assert_close_to(draw_frequencies(LOGITS, options), [0, 4 / 7, 0, 3 / 7])


def test_top_k_above_the_vocabulary_keeps_all() -> None:
    assert_close_to(draw_frequencies(LOGITS, SamplingOptions(1, top_k=99, top_p=1)), [0.1, 0.4, 0.2, 0.3])


def test_ties_at_the_border_go_to_the_lower_id() -> None:
    logits = (np.arange(1000) % 2).astype(np.float32)
    frequencies = draw_frequencies(logits, SamplingOptions(1, top_k=4, top_p=1))
    assert np.flatnonzero(frequencies).tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [0, 1, 0, 0]),
        (0.41, [0, 4 / 7, 0, 3 / 7]),
        (0.75, [0, 4 / 9, 2 / 9, 3 / 9]),
        (0.95, [0.1, 0.4, 0.2, 0.3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: list[float]) -> None:
    assert_close_to(draw_frequencies(LOGITS, SamplingOptions(1, top_p=top_p)), expected)


def test_top_p_reached_exactly_keeps_no_further_token() -> None:
    frequencies = draw_frequencies(np.zeros(4, np.float32), SamplingOptions(1, top_p=0.5))
    assert_close_to(frequencies, [0.5, 0.5, 0, 0])


def test_top_p_counts_within_top_k() -> None:
    assert_close_to(draw_frequencies(LOGITS, SamplingOptions(1, top_k=2, top_p=0.5)), [0, 1, 0, 0])


def test_minus_infinity_is_never_drawn() -> None:
    logits = np.array([0, -np.inf, 0], np.float32)
    assert_close_to(draw_frequencies(logits, SamplingOptions(1, top_p=1)), [0.5, 0, 0.5])


@pytest.mark.parametrize("bad", [[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]])
def test_broken_logits_are_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        sample_token(np.array(bad, np.float32), SamplingOptions(), np.random.default_rng(0))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"temperature": "1"},
        {"temperature": None},
        {"top_p": None},
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        SamplingOptions(**values)
