from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure.contenders import Setup
from reformer_export.measure.decoders import DecodeSetup
from reformer_export.measure.decoding import DecodeMeasurement, DecodeResult
from reformer_export.measure.decoding_memory import DecodeMemory
from reformer_export.measure.run import BenchmarkOptions
from reformer_export.report.decoding_page import DecodeReport, page_from_decoding
from reformer_export.report.ranges import describe_range, write_rate, write_ratio
from tests.report.results import MACHINE
from tests.runtimes.artifacts import write_artifact

MEMORY = DecodeMemory(2 * 10**6, 5 * 10**6, 12 * 10**6, 10**6, "resident memory")


def make_report(tmp_path: Path, seconds: dict[Any, float], memory: DecodeMemory | None) -> DecodeReport:
    """Steps of so many seconds by contender, at 64 and 1,024 tokens; there twice as long."""
    out = write_artifact(tmp_path / "out")
    rows = tuple(
        DecodeMeasurement(1, length, name, (0.5,), (step * times,) * 16, 8, memory)
        for length, times in ((64, 1), (1024, 2))
        for name, step in seconds.items()
    )
    setups = tuple(DecodeSetup(name, Setup("artifact", str(out), {})) for name in seconds)
    result = DecodeResult(setups, BenchmarkOptions((64,)), rows, MACHINE, (0.5, 1.25), ("a note",))
    return DecodeReport(out, read_manifest(out), "ONNX Runtime", result)


def test_the_page_of_a_whole_benchmark(tmp_path: Path) -> None:
    seconds = {"artifact": 0.001, "artifact-passes": 0.05, "eager-passes": 0.2, "eager-cache": 0.02}
    page = page_from_decoding(make_report(tmp_path, seconds, MEMORY))
    assert page.verdict is not None
    assert page.verdict.good
    assert page.verdict.headline == "500 tokens a second at 1,024 tokens of context"
    assert page.verdict.reason == (
        "At 64 to 1,024 tokens of context: 20 times as fast as eager with its cache, which gives other "
        "numbers; 200 times as fast as eager without; 50 times as fast as a whole pass for each token."
    )
    assert [section.name for section in page.sections] == ["speed", "prompt", "memory", "table", "about"]
    (speed,) = page.sections[0].drawings
    assert speed.alternative.startswith("At 1,024 tokens: artifact 500 tokens/s, artifact, whole passes 10.0")
    about = page.sections[-1].paragraphs
    assert about[0].endswith("09:30 UTC; load average 0.5 before, 1.2 after.")
    assert "Note: a note" in about
    (table,) = page.sections[-2].tables
    row = dict(zip(table.columns, table.rows[3], strict=True))
    assert row == {
        "batch": "1", "context": "64", "contender": "eager with its cache (other numbers)",
        "prompt ms": "500.0", "steps": "16", "ms a step": "20.00", "p90 ms": "20.00", "tokens/s": "50.0",
        "artifact faster": "20 x",
        "cache MB": "1.0", "held MB": "3.0", "peak MB": "12.0",
    }  # fmt: skip


def test_slower_than_a_peer_is_bad_and_nothing_beside_it_neither(tmp_path: Path) -> None:
    slow = make_report(tmp_path / "slow", {"artifact": 0.002, "artifact-passes": 0.001}, None)
    assert slow.verdict().good is False
    assert slow.verdict().reason.endswith("0.50 times as fast as a whole pass for each token.")
    alone = make_report(tmp_path / "alone", {"artifact": 0.002}, None)
    assert alone.verdict().good is None
    assert alone.verdict().reason == "At 64 to 1,024 tokens of context. Nothing was measured beside it."
    assert [section.name for section in alone.page().sections] == ["speed", "prompt", "table", "about"]
    assert "cache MB" not in alone.table().columns


def test_unsteady_times_are_said(tmp_path: Path) -> None:
    report = make_report(tmp_path, {"artifact": 0.001}, None)
    (first, *others) = report.result.measurements
    busy = dataclasses.replace(first, step_seconds=(0.001,) * 16 + (0.01,) * 8)
    result = dataclasses.replace(report.result, measurements=(busy, *others))
    assert dataclasses.replace(report, result=result).verdict().reason.endswith("see the notes.")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((5,), "5"), ((5, 2, 3), "2 to 5"), ((1.001, 1.002), "1.00"), ((9.5, 100.0), "9.50 to 100")],
)
def test_ranges(numbers: tuple[float, ...], words: str) -> None:
    assert describe_range(numbers, str if isinstance(numbers[0], int) else write_ratio) == words


@pytest.mark.parametrize(
    ("rate", "text"), [(0.94, "0.9"), (99.96, "100.0"), (100.2, "100"), (12345.6, "12,346")]
)
def test_rates(rate: float, text: str) -> None:
    assert write_rate(rate) == text
