from __future__ import annotations

import re

import pytest

from reformer_export.report.figures import draw, paint_bars, paint_series, plain_number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (100, "100"),
        (4096, "4,096"),
        (65536.0, "65,536"),
        (2e6, "2,000,000"),
        (1e-7, "1e-07"),
        (0.001, "0.001"),
    ],
)
def test_numbers_as_people_write_them(value: float, text: str) -> None:
    assert plain_number(value) == text


@pytest.mark.parametrize("low", [0.003, 0.9, 70, 3e5])
@pytest.mark.parametrize("span", [1.2, 4, 50, 4000])
def test_axes_have_plain_numbers_and_two_at_least(low: float, span: float) -> None:
    """No power of ten, no offset, and never an axis with a single number."""
    series = {"artifact": [(64.0, low), (1024.0, low * span)]}
    svg = draw("time", "Time", "words", paint_series, "length (tokens)", "latency (ms)", series).svg
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    assert not any("tspan" in text or "\u00d7" in text or "^" in text for text in texts)
    numbers = [text.strip() for text in texts if re.fullmatch(r"[\d,.]+", text.strip())]
    assert {"64", "1,024"} <= set(numbers)
    assert len(set(numbers) - {"64", "1,024"}) >= 2, numbers


def test_bars_have_plain_numbers() -> None:
    svg = draw("bars", "Bars", "words", paint_bars, "time (ms)", [("a", 1e-6), ("b", 3e-6)]).svg
    assert "\u00d7" not in svg
