from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from reformer_export.report.inspect_page import page_from_inspect
from reformer_export.report.page import write_report
from reformer_export.runtimes.inspection import ArtifactSummary, CustomNodes, OnnxSummary, inspect_path
from tests.report.browser import check_page, open_page
from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def found(tmp_path: Path) -> ArtifactSummary:
    """A small artifact with an awkward name."""
    found = inspect_path(write_artifact(tmp_path / "<b>out & co"))
    assert isinstance(found, ArtifactSummary)
    return found


def test_the_page_in_a_browser(tmp_path: Path, found: ArtifactSummary) -> None:
    path = tmp_path / "page.html"
    write_report(path, page_from_inspect(found))
    check_page(path)
    with open_page(path) as seen:
        assert "<b>out & co" in seen.page.locator("h1").inner_text()
        assert seen.page.locator("b:not(figcaption b)").count() == 0
        assert seen.page.locator(".verdict").inner_text().startswith("Whole")
        seen.page.get_by_text("manifest.json", exact=True).click()
        shown = json.loads(seen.page.locator("details pre").inner_text())
        assert shown == json.loads((Path(found.folder) / "manifest.json").read_text())
        assert f"{found.files[0].size:,} B" in seen.page.locator("#files").inner_text()


@pytest.mark.parametrize(
    ("state", "nodes", "parity", "headline"),
    [
        ("ok", (), None, "Whole, not compared"),
        ("changed", (), None, "Not as it was exported"),
        ("ok", (CustomNodes("LSHBuckets", 2, False),), None, "Needs the operator library"),
        ("ok", (), {"passed": True, "num_cases": 3}, "Whole, and agrees with eager"),
        ("ok", (), {"passed": False, "num_cases": 3}, "Differs from eager"),
    ],
)
def test_the_verdict(
    found: ArtifactSummary, state: str, nodes: tuple[CustomNodes, ...], parity: Any, headline: str
) -> None:
    assert found.graph is not None
    changed = dataclasses.replace(
        found,
        files=(dataclasses.replace(found.files[0], state=state),),
        graph=dataclasses.replace(found.graph, custom_nodes=nodes),
        manifest=dataclasses.replace(found.manifest, parity=parity),
    )
    verdict = page_from_inspect(changed).verdict
    assert verdict is not None
    assert (verdict.headline, verdict.good) == (
        headline,
        {"Whole, not compared": None, "Whole, and agrees with eager": True}.get(headline, False),
    )
    if parity is not None:
        assert "over 3 cases" in verdict.reason


def test_a_lone_file(found: ArtifactSummary) -> None:
    assert isinstance(found.graph, OnnxSummary)
    page = page_from_inspect(found.graph)
    assert page.verdict is not None
    assert page.verdict.headline == "Runs on any ONNX Runtime"
    assert [section.name for section in page.sections] == ["graph"]
    assert page.sections[0].paragraphs[0].endswith(f"; {258 * 258:,} parameters.")


def test_without_the_package_onnx(found: ArtifactSummary) -> None:
    page = page_from_inspect(dataclasses.replace(found, graph=None))
    assert [section.name for section in page.sections] == ["model", "runtimes", "files", "manifest"]
