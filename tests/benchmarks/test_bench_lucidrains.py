"""What the benchmark of reformer-pytorch's models says, from made-up times: none of them was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bench_lucidrains import Options, Result, describe_limit, group_times, write_report
from reformer_export.measure.node_times import OperatorTime


def make_result(part: str, length: int, factor: float) -> Result:
    """Ours in 1, 2 and 4 seconds, as the machine gets busy; eager so many times as long."""
    ours = (1.0, 2.0, 4.0)
    return Result(part, length, {"eager": tuple(factor * x for x in ours), "native": ours}, 1e-7)


def test_the_files_have_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    results = [make_result("attention", 16384, 17.5), make_result("model", 16384, 4.0)]
    operators = [OperatorTime("MatMul", 9, 5.0), OperatorTime("Gemm", 3, 3.0)]
    operators += [OperatorTime("LSHAttention", 6, 1.5), OperatorTime("Gelu", 6, 0.5)]
    groups = group_times(tuple(operators))
    assert groups == {"dense products": 8.0, "LSHAttention": 1.5, "LSHBuckets": 0, "rest": 0.5}
    assert "dense products 80%" in describe_limit(groups, results[1], 16384)
    assert "it would be 5.0 x." in describe_limit(groups, results[1], 16384)
    write_report(Options(2, False, "try"), results, groups, 150.0)
    text = (tmp_path / "try.md").read_text(encoding="utf-8")
    assert "| attention | 16,384 | 35,000.0 | 2,000.0 | 17.50 (17.50 to 17.50) | 3 | 1e-07 |" in text
    assert "at least 6 x eager: 17.50, met." in text
    values = json.loads((tmp_path / "try.json").read_text(encoding="utf-8"))
    assert values["results"][0]["median_of_ratios"] == {"native": 17.5}
    assert Options(1, True, "try").title.endswith("1 thread, processor seconds")


@pytest.mark.parametrize(
    ("length", "factor", "words"), [(16384, 5.5, "5.50, missed."), (4096, 9.0, "not run.")]
)
def test_a_target_that_is_not_met_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, factor: float, words: str
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    results = [make_result("attention", length, factor)]
    write_report(Options(1, False, "try"), results, {"dense products": 1.0}, 150.0)
    assert words in (tmp_path / "try.md").read_text(encoding="utf-8")
