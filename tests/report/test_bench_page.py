from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from reformer_export.report import render_page
from reformer_export.report.bench_page import page_from_bench
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model
from tests.report.browser import check_page, open_page


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A page and the JSON of the same command, of a small model."""
    folder = tmp_path_factory.mktemp("measured")
    checkpoint = save_model(folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    assert run_program("onnx", checkpoint, folder / "out", "--no-verify").status == 0
    page = folder / "page.html"
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


def test_the_page_comes_from_the_json(measured: tuple[Path, Any]) -> None:
    path, report = measured
    assert render_page(page_from_bench(report)) == path.read_text(encoding="utf-8")
    operators = {row["operator"]: row["runs"] for row in report["nodes"]["operators"]}
    assert sum(operators.values()) > 20
    assert report["nodes"]["length"] == 64


def verdict_of(report: Any, ratios: tuple[float, float]) -> tuple[bool, str, str]:
    changed = copy.deepcopy(report)
    for ratio, row in zip(ratios, (r for r in changed["results"] if r["contender"] == "eager"), strict=True):
        row["times_artifact"] = ratio
    verdict = page_from_bench(changed).verdict
    assert verdict is not None
    return verdict.good, verdict.headline, verdict.reason


def test_the_verdict(measured: tuple[Path, Any]) -> None:
    report = measured[1]
    good, headline, reason = verdict_of(report, (2.0, 3.0))
    assert (good, headline) == (True, "Faster at every shape")
    assert "2 to 3 times as fast as eager" in reason
    good, headline, _ = verdict_of(report, (0.5, 3.0))
    assert (good, headline) == (False, "Slower than eager at some shapes")


def test_alone(measured: tuple[Path, Any]) -> None:
    report = copy.deepcopy(measured[1])
    report["results"] = [row for row in report["results"] if row["contender"] == "artifact"]
    report |= {"nodes": None, "memory_measured": None}
    page = page_from_bench(report)
    assert page.verdict is not None
    assert page.verdict.headline.endswith("tokens a second")
    assert [section.name for section in page.sections] == ["time", "table", "about"]
