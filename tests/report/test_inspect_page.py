from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reformer_export.report import render_page
from reformer_export.report.inspect_page import page_from_inspect
from tests.cli.program import run_program
from tests.report.browser import check_page, open_page
from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def report(tmp_path: Path) -> Any:
    """What `inspect --json` says of a small artifact with an awkward name."""
    out = write_artifact(tmp_path / "<b>out & co")
    return json.loads(run_program("inspect", out, "--json").stdout)


def test_the_page_in_a_browser(tmp_path: Path, report: Any) -> None:
    path = tmp_path / "page.html"
    path.write_text(render_page(page_from_inspect(report)), encoding="utf-8")
    check_page(path)
    with open_page(path) as seen:
        assert "<b>out & co" in seen.page.locator("h1").inner_text()
        assert seen.page.locator("b:not(figcaption b)").count() == 0
        assert seen.page.locator(".verdict").inner_text().startswith("Whole")
        seen.page.get_by_text("manifest.json", exact=True).click()
        shown = json.loads(seen.page.locator("details pre").inner_text())
        assert shown == report["manifest"]


def test_the_numbers_are_those_of_the_json(report: Any) -> None:
    html = render_page(page_from_inspect(report))
    for file in report["files"]:
        assert f"{file['size']:,}" in html
    assert f"{report['graph']['parameters']:,} parameters" in html


@pytest.mark.parametrize(
    ("change", "headline"),
    [
        (lambda report: report["files"][0].update(state="changed"), "Not as it was exported"),
        (
            lambda report: report["graph"].update(refused_operators=["LSHBuckets"]),
            "Needs the operator library",
        ),
        (lambda report: report["manifest"].update(parity={"passed": True, "num_cases": 3}), "Whole"),
        (
            lambda report: report["manifest"].update(parity={"passed": False, "num_cases": 3}),
            "Differs from eager",
        ),
    ],
)
def test_the_verdict(report: Any, change: Any, headline: str) -> None:
    change(report)
    verdict = page_from_inspect(report).verdict
    assert verdict is not None
    assert (verdict.headline, verdict.good) == (headline, headline == "Whole")


def test_a_lone_file(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    report = json.loads(run_program("inspect", out / "model.onnx", "--json").stdout)
    page = page_from_inspect(report)
    assert page.verdict is not None
    assert page.verdict.headline == "Runs on any ONNX Runtime"
    assert [section.name for section in page.sections] == ["graph"]
