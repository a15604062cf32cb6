from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from reformer_export.measure import timing
from tests.cli.program import Outcome, run_program
from tests.measure.decode_model import export_decoder
from tests.measure.in_process import memory_in_process
from tests.report.browser import check_page, open_page

QUICK = ("--decode", "--repeat", "3", "--warm-up", "0", "--threads", "1")
NAMES = ["artifact", "artifact-passes", "eager-passes", "eager-cache"]


@pytest.fixture(scope="module", autouse=True)
def no_pause() -> Iterator[None]:
    with mock.patch.object(timing, "PAUSE_SECONDS", 0.0):
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a small checkpoint, with decode.onnx."""
    return export_decoder(tmp_path_factory.mktemp("exported"))[1]


def bench(out: Path, *options: object) -> Outcome:
    return run_program("bench", out, *QUICK, *options)


@pytest.fixture(scope="module")
def measured(exported: Path) -> tuple[Outcome, Path, dict[str, Any]]:
    """A whole run: what it printed, its page, and its JSON."""
    page, path = exported.parent / "page.html", exported.parent / "bench.json"
    options = ("--lengths", "9,40", "--batch-sizes", "1,2", "--report", page, "--json", path)
    with memory_in_process():
        outcome = bench(exported, *options)
    assert outcome.status == 0, outcome.stderr
    return outcome, page, json.loads(path.read_text())


def test_the_table_the_words_and_the_json_are_one(measured: tuple[Outcome, Path, dict[str, Any]]) -> None:
    outcome, _, report = measured
    found = [(row["batch"], row["length"], row["contender"]) for row in report["results"]]
    shapes = [(batch, length) for batch in (1, 2) for length in (9, 40)]
    assert found == [(*s, name) for s in shapes for name in NAMES if s[0] == 1 or name != "eager-cache"]
    lines = [line for line in outcome.stdout.splitlines() if re.match(r"  [12] ", line)]
    assert len(lines) == len(found)
    for line, row in zip(lines, report["results"], strict=True):
        assert f"  {row['step_ms']['p50']:,.2f}  " in line
        assert f"  {row['prompt_ms']:,.1f}  " in line
        assert f"  {row['memory_bytes']['cache_bytes'] / 1e6:,.1f}  " in line
        assert ("eager with its cache (other numbers)" in line) == (row["contender"] == "eager-cache")
    assert re.search(r"^[\d,.]+ tokens a second at 40 tokens of context\. At 9 to 40", outcome.stdout, re.M)
    assert re.search(r"^Machine: .*, threads: 1; .* UTC; load average \d", outcome.stdout, re.M)
    assert "which gives other numbers than its whole pass, and wrong ones in a batch." in outcome.stdout
    assert "Note: eager-cache: left out of batches, where it is wrong" in outcome.stdout
    assert set(report["contenders"]) == set(NAMES)


def test_the_page_in_a_browser(measured: tuple[Outcome, Path, dict[str, Any]]) -> None:
    _, page, report = measured
    check_page(page)
    with open_page(page) as seen:
        assert seen.page.locator("figure").count() == 3 * 2
        assert seen.page.locator("#table tbody tr").count() == len(report["results"])
        first = seen.page.locator("#speed svg").first.text_content()
        assert "tokens/s" in first
        assert "eager with its cache (other numbers)" in first
        one, two = (seen.page.locator("#speed svg").nth(index).inner_html() for index in range(2))
    assert colour_of("eager, whole passes", one) == colour_of("eager, whole passes", two)


def colour_of(label: str, svg: str) -> str:
    """The colour of the line that stands before `label` among a drawing's labels."""
    before = svg[: svg.index(label)]
    return re.findall(r"stroke: (#\w{6})", before)[-1]


def test_without_eager_and_memory(exported: Path) -> None:
    outcome = bench(exported, "--lengths", "9", "--against", "none", "--no-memory", "--json", "-")
    report = json.loads(outcome.stdout)
    assert [row["contender"] for row in report["results"]] == NAMES[:2]
    assert report["memory_measured"] is None
    assert [row["memory_bytes"] for row in report["results"]] == [None, None]


def test_the_default_length_is_the_longest_with_room(exported: Path) -> None:
    outcome = bench(exported, "--against", "none", "--no-memory", "--json", "-")
    assert {row["length"] for row in json.loads(outcome.stdout)["results"]} == {48}
    assert "Lengths: 48." in outcome.messages


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lengths", "57"), "--lengths: got 57, expected lengths from 1 to 56, which leave this artifact"),
        (("--lengths", "0"), "--lengths: got 0, expected lengths from 1 to 56"),
        (("--against", "eager,full-attention"), "--against: got full-attention, expected eager"),
        (("--runtime", "tensorrt"), "got tensorrt, expected onnxruntime: engines are not timed at decoding"),
    ],
)
def test_bad_options_are_one_line(exported: Path, options: tuple[str, ...], words: str) -> None:
    arguments = QUICK[:-2] if "--runtime" in options else QUICK
    outcome = run_program("bench", exported, *arguments, *options)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert words in outcome.error


def test_an_artifact_without_decode_onnx(exported: Path, tmp_path: Path) -> None:
    checkpoint = exported.parent / "ReformerModelWithLMHead"
    assert run_program("onnx", checkpoint, tmp_path / "out", "--no-verify").status == 0
    outcome = bench(tmp_path / "out")
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "without decode.onnx" in outcome.error
    assert outcome.error.endswith("export the checkpoint again with --decode")
