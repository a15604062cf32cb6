from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from reformer_export.report import render_page
from reformer_export.report.verify_page import page_from_verify
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model
from tests.report.browser import check_page, open_page


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A page and the JSON of the same command, of a small model with a dial and a text it was measured on."""
    folder = tmp_path_factory.mktemp("verified")
    config = config_t(is_decoder=True, vocab_size=258)
    checkpoint = save_model(folder, config, transformers.ReformerModelWithLMHead)
    exported = run_program("onnx", checkpoint, folder / "out", "--no-verify", "--max-hashes", 4)
    assert exported.status == 0, exported
    page = folder / "page.html"
    (folder / "text.txt").write_text("a b c " * 50)
    outcome = run_program(
        *("verify", folder / "out", "--report", page, "--json", "-", "--lengths", "1,9,64"),
        *("--data", folder / "text.txt"),
    )
    assert outcome.status == 0, outcome
    return page, json.loads(outcome.stdout)


def test_the_page_in_a_browser(verified: tuple[Path, Any]) -> None:
    path, report = verified
    check_page(path)
    with open_page(path) as seen:
        assert seen.page.locator(".verdict strong").inner_text() == "Yes: it is the same model"
        assert seen.page.locator("figure").count() == 6
        assert seen.page.locator("#cases tbody tr").count() == report["num_cases"]


def test_the_page_comes_from_the_json(verified: tuple[Path, Any]) -> None:
    path, report = verified
    assert render_page(page_from_verify(report)) == path.read_text(encoding="utf-8")
    (margins,) = report["details"]["margins"]
    assert sum(margins["counts"]) == 64 * 2 * 4
    assert {row["layer"] for row in report["details"]["layers"]} == {0, 1}
    assert report["details"]["pattern"]["length"] == 64


def flip(report: Any, margin: float, unexplained: int) -> Any:
    """The report with one flipped hash in its last case."""
    changed = copy.deepcopy(report)
    agreement = changed["cases"][-1]["layers"][0]
    agreement |= {"flips": 1, "unexplained": unexplained, "worst_margin": margin, "flip_margins": [margin]}
    changed["cases"][-1] |= {"flips": 1, "passed": not unexplained}
    return changed | {"flips": 1, "unexplained_flips": unexplained, "passed": not unexplained}


def test_flips_are_marked_and_explained(verified: tuple[Path, Any]) -> None:
    report = verified[1]
    explained = render_page(page_from_verify(flip(report, 1e-7, 0)))
    assert "1 flips, 0 of them unexplained" in explained
    assert "flip, explained" in explained
    assert "UNEXPLAINED" not in explained
    unexplained = render_page(page_from_verify(flip(report, 0.1, 1)))
    assert "1 flips, 1 of them unexplained" in unexplained
    assert "flip, UNEXPLAINED" in unexplained
    assert "No: it differs" in unexplained
    assert "other rotations or another projection, not noise" in unexplained


def test_wrong_arithmetic_is_said(verified: tuple[Path, Any]) -> None:
    report = copy.deepcopy(verified[1])
    report["cases"][0] |= {"pinned_error": None, "passed": False}  # JSON has no infinity
    page = page_from_verify(report | {"passed": False})
    assert page.verdict is not None
    assert (page.verdict.good, page.verdict.headline) == (False, "No: it differs")
    assert "the arithmetic differs by more than rounding" in page.verdict.reason


def test_the_node_that_differs(verified: tuple[Path, Any]) -> None:
    """What --bisect found stands first."""
    found = {
        "verdict": "First node that differs: MatMul node_linear_3",
        "replay": "reformer-export replay DIR",
    }
    page = page_from_verify(verified[1] | {"bisect": found})
    assert page.sections[0].name == "bisect"
    html = render_page(page)
    assert "First node that differs: MatMul node_linear_3." in html
    assert "reformer-export replay DIR" in html


def test_a_model_without_hashing(tmp_path: Path) -> None:
    config = config_t(is_decoder=True, attn_layers=["local", "local"])
    checkpoint = save_model(tmp_path, config, transformers.ReformerModelWithLMHead)
    assert run_program("onnx", checkpoint, tmp_path / "out", "--no-verify").status == 0
    page = tmp_path / "page.html"
    outcome = run_program(
        "verify", tmp_path / "out", "--report", page, "--lengths", "9", "--batch-sizes", "1"
    )
    assert outcome.status == 0, outcome
    html = page.read_text(encoding="utf-8")
    assert "Layer by layer" in html
    assert "What hashing chose" not in html
