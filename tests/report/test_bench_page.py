from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure.contenders import Setup
from reformer_export.measure.node_times import NodeTimes, OperatorTime
from reformer_export.measure.run import Measurement
from reformer_export.report.bench_page import BenchReport, page_from_bench
from reformer_export.report.page import Verdict
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model
from tests.measure.in_process import memory_in_process
from tests.report.browser import check_page, open_page
from tests.report.results import make_benchmark
from tests.runtimes.artifacts import write_artifact


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A page and the JSON of the same command, of a small model."""
    folder = tmp_path_factory.mktemp("measured")
    checkpoint = save_model(folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    assert run_program("onnx", checkpoint, folder / "out", "--no-verify").status == 0
    page = folder / "page.html"
    with memory_in_process():
        outcome = run_program(
            *("bench", folder / "out", "--report", page, "--json", "-", "--threads", 1),
            *("--lengths", "9,64", "--repeat", 3, "--against", "eager"),
        )
    assert outcome.status == 0, outcome
    return page, json.loads(outcome.stdout)


def test_the_page_in_a_browser(measured: tuple[Path, Any]) -> None:
    path, report = measured
    check_page(path)
    with open_page(path) as seen:
        assert seen.page.locator("figure").count() == 3
        assert seen.page.locator("#table tbody tr").count() == len(report["results"]) == 4
        assert "artifact" in seen.page.locator("#time svg").text_content()


def test_the_page_has_the_numbers_of_the_json(measured: tuple[Path, Any]) -> None:
    path, report = measured
    html = path.read_text(encoding="utf-8")
    for row in report["results"]:
        assert f"<td>{row['latency_ms']['p50']:,.2f}</td>" in html
        assert f"<td>{row['peak_memory_bytes'] / 1e6:,.0f}</td>" in html
    operators = {row["operator"]: row for row in report["nodes"]["operators"]}
    assert sum(row["runs"] for row in operators.values()) > 20
    for name, row in operators.items():
        assert f"<td>{name}</td><td>{row['runs']}</td><td>{1e3 * row['seconds']:.2f}</td>" in html
    assert report["nodes"]["length"] == 64


def make_report(tmp_path: Path, *eager_seconds: float) -> BenchReport:
    out = write_artifact(tmp_path / "out")
    result = make_benchmark(out, *eager_seconds, memory=False)
    return BenchReport(out, read_manifest(out), "ONNX Runtime", result)


@pytest.mark.parametrize(
    ("eager_seconds", "verdict"),
    [
        (
            (2.0, 3.0),
            Verdict(
                True,
                "2.00 to 3.00 times as fast as eager",
                "Eager is what it replaces; median of passes in turns, at 64 to 1,024 tokens.",
            ),
        ),
        (
            (0.5, 3.0),
            Verdict(
                False,
                "0.50 to 3.00 times as fast as eager",
                "Eager is what it replaces; median of passes in turns, at 64 to 1,024 tokens. It is slower "
                "than eager at batch 1, length 64.",
            ),
        ),
        (
            (),
            Verdict(
                None,
                "1,024 tokens a second",
                "The most, at 64 to 1,024 tokens. Eager, which it replaces, was not measured beside it.",
            ),
        ),
    ],
)
def test_the_verdict(tmp_path: Path, eager_seconds: tuple[float, ...], verdict: Verdict) -> None:
    page = page_from_bench(make_report(tmp_path, *eager_seconds))
    assert page.verdict == verdict
    assert [section.name for section in page.sections] == ["time", "table", "about"]
    assert "Note: a note" in page.sections[-1].paragraphs
    assert page.sections[-1].paragraphs[0] == "Machine: a CPU, 2 cores, threads: 1; 2026-11-26 09:30 UTC."


def test_full_attention_is_told_and_judges_nothing(tmp_path: Path) -> None:
    """The artifact is slower than it, and faster than eager: that is what it replaces."""
    report = make_report(tmp_path, 2.0, 3.0)
    setup = Setup("full-attention", str(tmp_path), {})
    rows = [Measurement(1, length, "full-attention", (0.25,) * 3, None) for length in (64, 1024)]
    result = report.result
    both = dataclasses.replace(
        result, setups=(*result.setups, setup), measurements=(*result.measurements, *rows)
    )
    verdict = page_from_bench(dataclasses.replace(report, result=both)).verdict
    assert verdict is not None
    assert (verdict.good, verdict.headline) == (True, "2.00 to 3.00 times as fast as eager")
    assert "Full attention, another model of the same shapes, takes 0.25 times as long" in verdict.reason


def test_json_has_the_nodes_where_they_were_asked_for(tmp_path: Path) -> None:
    report = make_report(tmp_path)
    assert not {"nodes", "manifest"} & set(report.to_dict())
    nodes = NodeTimes(64, (OperatorTime("Gemm", 12, 0.5),))
    values = dataclasses.replace(report, nodes=nodes, with_nodes=True).to_dict()
    assert values["nodes"] == {
        "length": 64,
        "operators": ({"operator": "Gemm", "runs": 12, "seconds": 0.5},),
    }
    assert values["manifest"] == report.manifest.to_dict()
    assert values["model_sha256"] == report.manifest.files["model.onnx"]
    assert dataclasses.replace(report, with_nodes=True).to_dict()["nodes"] is None
