from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.cli.tables import print_table
from reformer_export.report.inspect_page import page_from_inspect
from reformer_export.report.inspection_tables import inspection_tables
from reformer_export.report.page import render_page
from reformer_export.runtimes import load
from reformer_export.runtimes.inspection import ArtifactSummary, inspect_path
from tests.cli.program import run_program
from tests.runtimes.artifacts import make_bare_node_model, write_artifact


@pytest.mark.parametrize("name", ["", MODEL_NAME, "bare.onnx"])
def test_the_same_in_words_and_in_json(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_artifact(tmp_path / "out", files={"config.json": b"{}"}) / name
    if name == "bare.onnx":
        onnx.save(make_bare_node_model(), str(path))
    found = inspect_path(path)
    for table in inspection_tables(str(path), found):
        print_table(table)
    outcome = run_program("inspect", path)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, capsys.readouterr().out, "")
    assert "ONNX Runtime" in outcome.stdout
    outcome = run_program("inspect", path, "--json")
    assert json.loads(outcome.stdout) == json.loads(json.dumps(found.to_dict()))


def test_a_page(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    outcome = run_program("inspect", out, "--report", tmp_path / "page.html")
    assert outcome.status == 0
    found = inspect_path(out)
    assert isinstance(found, ArtifactSummary)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == render_page(page_from_inspect(found))


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_changed_file_is_a_check_that_did_not_hold(tmp_path: Path, as_json: tuple[str, ...]) -> None:
    """Status 1 and a line that names it; all that is known of the artifact is printed as for a sound one."""
    out = write_artifact(tmp_path / "out", files={"config.json": b"{}", "gone": b"x"})
    (out / "config.json").write_text("{ }")
    (out / "gone").unlink()
    outcome = run_program("inspect", out, *as_json)
    assert outcome.status == 1
    assert "config.json changed, gone missing, expected each as it was written" in outcome.error
    assert "refuses the artifact: config.json is changed, gone is missing" in outcome.stdout


def test_it_names_what_run_uses_here(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    report = json.loads(run_program("inspect", out, "--json").stdout)
    with load(out) as model:
        assert report["runtimes"]["`run` here"] == model.description


def test_other_paths_are_refused(tmp_path: Path) -> None:
    outcome = run_program("inspect", tmp_path / "nowhere", "--json")
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "got no such file or folder" in outcome.error
