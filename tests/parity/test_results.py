from __future__ import annotations

import pytest

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import LayerAgreement
from reformer_export.parity.results import CaseResult, VerifyResult


def make_result(
    error: float = 1e-6, unexplained: int = 0, misplaced: int = 0, free_error: float = 1e-6
) -> VerifyResult:
    """A sound case and one with an error and flips."""
    sound = CaseResult(Case(8, 1, masked=False), 1e-6, 5e-5, (LayerAgreement(1, 64, 0, 0, 0.0),), 1e-6)
    layer = LayerAgreement(1, 64, unexplained, unexplained, 0.5, (0.5,) * unexplained, misplaced)
    other = CaseResult(Case(64, 1, masked=False), error, 5e-5, (layer,), free_error)
    return VerifyResult("onnxruntime CPU", "float32", (sound, other), "float32")


@pytest.mark.parametrize(
    ("result", "words", "other_words"),
    [
        (make_result(), "", "differs"),
        (make_result(1.0), "the arithmetic differs by more than rounding", "flipped"),
        (
            make_result(1.0, 9),
            "the arithmetic differs by more than rounding, and 9 hashes flipped as its consequence",
            "rotations",
        ),
        (
            make_result(unexplained=9, misplaced=7),
            "7 hashes fell into another bucket than their vectors",
            "too",
        ),
        (
            make_result(1.0, 9, 7),
            "hashes otherwise; the arithmetic differs by more than rounding too",
            "conseq",
        ),
        (make_result(unexplained=9), "9 hashes flipped because their vectors differ", "rotations"),
        (make_result(free_error=1.0), "with buckets of its own the runtime gives other outputs", "rotations"),
    ],
)
def test_the_first_cause_is_told_and_what_follows_from_it(
    result: VerifyResult, words: str, other_words: str
) -> None:
    assert words in result.explain_failure()
    assert other_words not in result.explain_failure()
    assert result.passed == (result.explain_failure() == "")
    begin = "Passed: 2 cases; worst" if result.passed else f"FAILED: 1 of 2 cases; {result.explain_failure()}"
    assert result.verdict().startswith(begin)


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("float32", "The tolerance of float32 is 5e-05, times"),
        ("tf32", "The tolerance of TF32 is 1e-02, times"),
        ("float16", "up to a margin of 1.6e-02"),
        ("bfloat16", "The tolerance of bfloat16 is 6e-02, times"),
    ],
)
def test_the_rule_of_each_precision(precision: str, words: str) -> None:
    assert words in VerifyResult("runtime", "float32", (), precision).rule()
