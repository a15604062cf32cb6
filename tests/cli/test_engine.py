"""`reformer-export engine` and what `inspect` says of engines, with a fake TensorRT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reformer_export.artifact.engine_record import engine_path, read_engine_record, record_path
from reformer_export.cli import engine as engine_command
from reformer_export.engine import Progress
from tests.cli.program import Outcome, run_program
from tests.engine.fake_tensorrt import install_fake_tensorrt
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import write_library

RTX = ("--runtime", "tensorrt-rtx", "--compute-capability", "8.9")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_tensorrt(tmp_path, monkeypatch)
    return write_artifact(tmp_path / "out")


def words_of(outcome: Outcome) -> list[str]:
    """Standard output's lines, each run of spaces as one."""
    assert outcome.status == 0, outcome
    return [" ".join(line.split()) for line in outcome.stdout.splitlines()]


def test_an_engine_in_words(out: Path) -> None:
    lines = words_of(run_program("engine", out, *RTX, "--max", "2x64", "--opt", "1x32", "--tf32"))
    assert f"Engine {out}/engines/tensorrt-rtx.engine" in lines
    assert "runtime tensorrt-rtx 10.14.1" in lines
    assert "compute capabilities 8.9" in lines
    assert "profile 0: min / opt / max 1x1 / 1x32 / 2x64" in lines
    assert "plugin layers 1 TableRead" in lines
    assert "built with float32 products in TF32" in lines


def test_an_engine_in_json(out: Path, tmp_path: Path) -> None:
    write_library(tmp_path, "80")
    outcome = run_program("engine", out, *RTX, "--compute-capability", "12.0", "--json", "--name", "both")
    report = json.loads(outcome.stdout)
    notes = report.pop("notes")
    assert report == json.loads(record_path(out, "both").read_text())
    assert report["compute_capabilities"] == ["8.9", "12.0"]
    assert "no machine code for compute capability 12.0" in notes[0]
    assert outcome.messages == [f"Note: {notes[0]}"]


def test_options_reach_the_builder(out: Path) -> None:
    options = ("--builder-level", "1", "--workspace", "1G", "--embed-plugin", "--max", "1x8", "--max", "1x16")
    assert run_program("engine", out, *RTX, *options).status == 0
    built = json.loads(engine_path(out, "tensorrt-rtx").read_text())
    assert (built["level"], built["calls"]) == (1, {"WORKSPACE": 2**30})
    assert [profile["input_ids"][2] for profile in built["profiles"]] == [[1, 8], [1, 16]]
    assert len(read_engine_record(out, "tensorrt-rtx").profiles) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max", "64"), "--max: got 64, expected batch x length; write e.g. 1x1024"),
        (("--min", "0x1"), "--min: got '0x1'"),
        (("--opt", "1x2x3"), "--opt: got 1x2x3"),
        (("--max", "1x65"), "expected at most 64, the model's limit"),
        (("--compute-capability", "9.0"), "got 9.0, expected one of 7.5, 8.0, 8.9, 12.0"),
        (("--workspace", "much"), "--workspace: got 'much'"),
        (("--hardware-compatible",), "--hardware-compatible: got it with --runtime tensorrt-rtx"),
        (("--name", "../up"), "engine name: got '../up'"),
        (("--timing-cache", "/nowhere/cache"), "whose folder does not exist"),
        (("--builder-level", "9"), "0<=x<=5"),
    ],
)
def test_the_user_s_faults_are_one_line(out: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = run_program("engine", out, *RTX, *arguments)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert message in outcome.error
    assert not (out / "engines").exists()


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    outcome = run_program("engine", tmp_path, *RTX)
    assert outcome.status == 2
    assert "without manifest.json" in outcome.error


def test_a_dead_process_is_one_line_and_debug_shows_its_words(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "abort")
    outcome = run_program("engine", out, *RTX)
    assert outcome.status == 2
    assert "ended by SIGABRT" in outcome.error


def test_debug_shows_tensorrt_s_log(out: Path) -> None:
    outcome = run_program("--debug", "engine", out, *RTX)
    assert "TensorRT warning: a warning of two lines" in outcome.messages
    assert run_program("engine", out, *RTX, "--overwrite").messages == []


def test_progress_is_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reformer_export.cli.tables.PLAIN_PROGRESS_SECONDS", 0.0)
    with engine_command.show_build("mine") as show:
        show(Progress(0.5, "Timing tactics", 3, 6))
    assert capsys.readouterr().err == "Building mine: 50%, Timing tactics, 3 of 6\n"


def test_inspect_an_engine(out: Path) -> None:
    assert run_program("engine", out, *RTX).status == 0
    path = engine_path(out, "tensorrt-rtx")
    lines = words_of(run_program("inspect", path))
    assert "compute capabilities 8.9" in lines
    assert "state ok" in lines
    report = json.loads(run_program("inspect", path.with_suffix(".json"), "--json").stdout)
    assert (report["kind"], report["state"], report["record"]["name"]) == ("engine", "ok", "tensorrt-rtx")
    outcome = run_program("inspect", path, "--report", out / "page.html")
    assert outcome.status == 2
    assert f"--report: got the engine {path}, expected an artifact's folder" in outcome.error
