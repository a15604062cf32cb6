from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from reformer_export.measure.accuracy import AccuracyResult
from reformer_export.parity.bisect import BisectResult, NamedNode
from reformer_export.parity.cases import Case
from reformer_export.parity.constants import ConstantsResult, WrongConstant
from reformer_export.parity.decoding_results import Finding
from reformer_export.parity.details import Details
from reformer_export.parity.hashing import MARGIN_EDGES, MarginHistogram
from reformer_export.parity.point_errors import PointError
from reformer_export.parity.points import Point
from reformer_export.parity.results import CaseResult
from reformer_export.report import render_page
from reformer_export.report.figures import draw, paint_heat_map
from reformer_export.report.page import Page, Verdict
from reformer_export.report.verify_page import page_from_verify
from reformer_export.report.verify_report import BisectReport, DataAccuracy, RuntimeReport, VerifyReport
from reformer_export.spec import DTYPES
from tests.artifact.test_manifest import make_manifest
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model
from tests.report.browser import check_page, open_page
from tests.report.results import ACCURACY, make_case, make_decoding, make_drift, make_finding, make_sweep


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A page and the JSON of the same command, of a small model that was measured on a text too."""
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


def test_the_page_has_the_numbers_of_the_json(verified: tuple[Path, Any]) -> None:
    path, report = verified
    html = path.read_text(encoding="utf-8")
    for case in report["cases"]:
        assert f"<td>{case['pinned_error']:.1e}</td>" in html
        assert f"<td>{case['free_error']:.1e}</td>" in html
    for row in report["dial"]["rows"]:
        assert f"<td>{row['num_hashes']}</td><td>{row['loss']:.4f}</td>" in html
    (margins,) = report["details"]["margins"]
    assert sum(margins["counts"]) == 64 * 2 * 4
    told = "Bars: 512 hashes of one input. Ticks: 0 flips among the "
    assert told in html
    assert "hashes of every input, 0 of them unexplained." in html
    assert (
        html.count("The tolerance of float32 is 5e-05, times the largest output") == 2
    )  # beside the numbers
    assert {row["layer"] for row in report["details"]["layers"]} == {0, 1}
    assert "Layers: 2; the largest share is" in html
    assert report["details"]["pattern"]["length"] == 64
    assert "one input of 64 tokens" in html


def make_report(*cases: CaseResult, accuracy: AccuracyResult | None = None, **more: Any) -> VerifyReport:
    data = None if accuracy is None else DataAccuracy("text.txt", 4, accuracy)
    return VerifyReport(Path("out"), make_manifest(), (RuntimeReport(make_sweep(*cases), data),), **more)


def make_details(limit: float) -> Details:
    rows = (PointError(Point("name", "value", 0, 0, "attention output", 3, 1), 1e-6, 1.0, 5e-5),)
    counts = (*range(len(MARGIN_EDGES) - 1),)
    roundings = dict.fromkeys(DTYPES, 1e-3)
    margins = MarginHistogram(1, counts, roundings, dict.fromkeys(DTYPES, 0.25))
    return Details(rows, (margins,), None, limit)


@pytest.mark.parametrize(
    ("margin", "unexplained", "words"),
    [
        (1e-7, 0, ["1 flip among the 3,600 hashes", "flip, explained", "Yes: it is the same model"]),
        (
            0.1,
            1,
            [
                "every input, 1 of them unexplained",
                "flip, UNEXPLAINED",
                "No: it differs",
                "by more than rounding",
            ],
        ),
    ],
)
def test_flips_are_marked_and_explained(margin: float, unexplained: int, words: list[str]) -> None:
    html = render_page(
        page_from_verify(make_report(make_case(1, unexplained, margin), details=make_details(1e-6)))
    )
    for word in words:
        assert word in html
    assert ("UNEXPLAINED" in html) == bool(unexplained)
    row = (
        f"<td>1</td><td>3,600</td><td>99.9722%</td><td>1</td><td>{unexplained}</td><td>0</td><td>25.00%</td>"
    )
    assert row in html


@pytest.mark.parametrize("error", [1.0, math.inf])
def test_wrong_arithmetic_is_said(error: float) -> None:
    verdict = page_from_verify(make_report(make_case(error=error))).verdict
    assert verdict == Verdict(
        False,
        "No: it differs",
        f"1 of 2 inputs fail: the arithmetic differs by more than rounding. The largest: {error:.1e}, where "
        "5.0e-05 is allowed. `reformer-export verify --bisect DIR` names the first node that differs.",
    )


def make_named() -> BisectResult:
    wrong = PointError(Point("name", "value", 0, 0, "query", 3, 1), 0.2, 1.0, 1e-5)
    named = NamedNode("node_7", "MatMul", (), wrong, 0.3)
    return BisectResult(Case(64, 1, masked=False), named, None, wrong, wrong)


@pytest.mark.parametrize("cases", [(make_case(3, 3, 0.1, error=1.0),), ()])
def test_a_named_node_is_the_headline(cases: tuple[CaseResult, ...]) -> None:
    """Flips after a wrong node are its consequence; and no page says yes where the command says no."""
    report = make_report(*cases, bisect=BisectReport(make_named(), Path("DIR"), "replay DIR"))
    verdict = page_from_verify(report).verdict
    assert verdict is not None
    assert (verdict.good, verdict.headline) == (False, "No: the node node_7 is wrong")
    assert "error 2.0e-01, tolerance 1.0e-05" in verdict.reason
    assert "rotations" not in verdict.reason
    assert ("consequence" in verdict.reason) == bool(cases)
    assert ("Every output agrees all the same" in verdict.reason) != bool(cases)
    (line,) = report.failures()
    assert line.startswith("FAILED: node_7 (MatMul)")


@pytest.mark.parametrize("cases", [(make_case(error=1.0),), ()])
def test_wrong_constants_are_the_headline(cases: tuple[CaseResult, ...]) -> None:
    wrong = [
        WrongConstant("model.onnx", f"lm_head.decoder.{name}", "1 of 6 numbers differ", "3 there")
        for name in ("weight", "scales")
    ]
    page = page_from_verify(make_report(*cases, constants=ConstantsResult(9, tuple(wrong))))
    assert page.verdict is not None
    assert (page.verdict.good, page.verdict.headline) == (False, "No: it stores other weights")
    assert "2 of 9 constants are not what the checkpoint gives" in page.verdict.reason
    assert ("consequence" in page.verdict.reason) == bool(cases)
    (section,) = (each for each in page.sections if each.name == "constants")
    assert "lm_head.decoder.weight in model.onnx: got 1 of 6 numbers" in section.paragraphs[1]
    assert section.paragraphs[2].startswith("lm_head.decoder.scales in model.onnx: ")
    sound = page_from_verify(make_report(constants=ConstantsResult(9)))
    assert sound.verdict is not None
    assert sound.verdict.reason.endswith("Its weights are the checkpoint's, bit for bit.")


def test_the_heat_map_s_scale_ends_at_the_limit() -> None:
    """One colour for one share in every report: a sound model is never shown as bright as a wrong one."""
    drawn = {
        share: draw(
            "layers", "t", "a", paint_heat_map, ["row"], ["0"], [[share]], "share of the tolerance"
        ).svg
        for share in (0.009, 0.9, 1.5, math.inf)
    }
    for svg in drawn.values():
        assert "share of the tolerance" in svg
        for tick in ("0.0001", "0.01", "1"):
            assert f">{tick}</text>" in svg
    images = {share: re.findall(r'xlink:href="[^"]*"|base64,[^"]*', svg)[0] for share, svg in drawn.items()}
    assert images[0.009] != images[0.9] != images[1.5]
    assert images[1.5] == images[math.inf]


def test_the_node_that_differs() -> None:
    """What a search for it found stands first."""
    found = BisectResult(Case(64, 1, masked=False), None, None, None, None)
    bisect = BisectReport(found, Path("DIR"), "reformer-export replay DIR")
    page = page_from_verify(make_report(bisect=bisect))
    assert page.sections[0].name == "bisect"
    assert page.sections[0].paragraphs == [
        "No node differs (batch 1, length 64).",
        "Run just that node again, on eager's values, with: reformer-export replay DIR",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_accuracy_against_speed(count: int) -> None:
    accuracy = dataclasses.replace(ACCURACY, rows=ACCURACY.rows[:count])
    sections = {
        section.name: section for section in page_from_verify(make_report(accuracy=accuracy)).sections
    }
    section = sections["accuracy"]
    assert section.paragraphs == ["On text.txt, 1,030 characters, in sequences of 1,024 tokens."]
    assert len(section.tables[0].rows) == count
    told = [drawing.alternative for drawing in section.drawings]
    words = "From 1 to 4 hashes: 2.8854 to 1.4427 bits per character, 5,432 to 1,234 tokens a second."
    assert told == ([words] * 2 if count == 2 else [])


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


def page_of_decoding(*findings: Finding, parted: bool = False) -> Page:
    runtime = RuntimeReport(make_sweep(), None, make_decoding(*findings), make_drift(parted))
    return page_from_verify(VerifyReport(Path("out"), make_manifest(), (runtime,)))


@pytest.mark.parametrize("parted", [False, True])
def test_decoding_on_the_page(tmp_path: Path, parted: bool) -> None:
    page = page_of_decoding(parted=parted)
    assert page.verdict is not None
    assert page.verdict.good
    assert page.verdict.reason.endswith("decode.onnx, which continues a sequence, agrees with it.")
    path = tmp_path / "page.html"
    path.write_text(render_page(page), encoding="utf-8")
    check_page(path)
    with open_page(path) as seen:
        section = seen.page.locator("#decoding")
        assert section.locator("tbody tr").count() == 4
        assert "bits per character over 104 of them: 1.4681 with the past frozen" in section.inner_text()
        told = section.locator("[role=img]").get_attribute("aria-label")
        assert told.startswith(
            "Typical difference 0.053 in the last quarter of the positions, largest anywhere 0.59"
        )
        assert f"another token comes first at {52 if parted else 0} of 104 positions" in told
        legend = section.locator("svg").text_content()
        assert ("another token first" in legend) == parted
        assert "spread of the logits themselves" in legend


def test_a_decoding_that_fails_is_the_headline() -> None:
    page = page_of_decoding(*(make_finding("batch", 1.0 + i) for i in range(7)))
    assert page.verdict is not None
    assert (page.verdict.good, page.verdict.headline) == (False, "No: decode.onnx differs")
    assert "FAILED: 7 of 11 comparisons of decode.onnx" in page.verdict.reason
    (section,) = (section for section in page.sections if section.name == "decoding")
    assert len([text for text in section.paragraphs if text.startswith("logits, 65 tokens")]) == 5
    assert "And 2 more." in section.paragraphs
    assert section.tables[0].rows[2][-1] == "FAILED"
