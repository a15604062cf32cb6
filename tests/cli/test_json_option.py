"""--json FILE, --json - and --json alone, alike in every command."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reformer_export.cli.main import COMMANDS, cli
from tests.cli.program import Outcome, run_program
from tests.runtimes.artifacts import write_artifact

ARGUMENTS = {
    "inspect": ("inspect", "OUT"),
    "doctor": ("doctor", "OUT"),
    "run": ("run", "OUT", "abc", "x"),
    "generate": ("generate", "OUT", "abc", "--temperature", "0", "--max-new-tokens", "3"),
    "bench": ("bench", "OUT", "--lengths", "8", "--repeat", "1", "--against", "none", "--no-memory"),
}
TIMES = ("seconds", "tokens_per_second", "latency", "date")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("json") / "out")


def invoke(command: str, out: Path, *options: object) -> Outcome:
    return run_program(*(str(out) if part == "OUT" else part for part in ARGUMENTS[command]), *options)


def drop_times(values: object) -> object:
    if isinstance(values, dict):
        return {k: drop_times(v) for k, v in values.items() if not any(time in k for time in TIMES)}
    return [drop_times(each) for each in values] if isinstance(values, list) else values


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])  # prints a log
def test_every_command_has_the_same_option(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    (option,) = [param for param in command.params if "--json" in param.opts]
    assert (option.name, option.make_metavar(click.Context(command))) == ("json_file", "FILE")


@pytest.mark.parametrize("command", ["inspect", "doctor", "run", "generate"])
def test_a_file_gets_what_standard_output_gets(command: str, out: Path, tmp_path: Path) -> None:
    printed = [invoke(command, out, "--json"), invoke(command, out, "--json", "-")]
    plain = invoke(command, out)
    written = invoke(command, out, "--json", tmp_path / "new.json")
    values = [json.loads(outcome.stdout) for outcome in printed]
    values.append(json.loads((tmp_path / "new.json").read_text()))
    assert drop_times(values[0]) == drop_times(values[1]) == drop_times(values[2])
    assert {outcome.status for outcome in (*printed, plain, written)} == {0}
    assert written.stdout == plain.stdout  # the table, or the text, is there too
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


def test_bench_too(out: Path, tmp_path: Path) -> None:
    outcome = invoke("bench", out, "--json", tmp_path / "bench.json")
    assert outcome.status == 0
    assert json.loads((tmp_path / "bench.json").read_text()).keys() >= {"artifact"}
    assert json.loads(invoke("bench", out, "--json").stdout).keys() >= {"artifact"}


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize("value", ["some text", "model.onnx", "lines.txt"])
def test_what_stands_behind_a_bare_option_is_not_written_over(
    command: str, value: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor --json model.onnx` printed JSON once, where now a file is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_text("a model")
    outcome = invoke(command, out, "--json", value)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert (
        f"--json: got '{value}', expected a name ending in .json, or - for standard output" in outcome.error
    )
    assert "write `--json FILE.json` or `--json -`" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "a model"


def test_a_failure_leaves_the_old_file(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("old")
    outcome = run_program("run", out, "--ids", "5", "--ids", "999", "--json", path)
    assert outcome.status == 2
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["old.json"]


def test_totals_of_an_output_go_to_the_file(out: Path, tmp_path: Path) -> None:
    target, report = tmp_path / "o.jsonl", tmp_path / "totals.json"
    outcome = run_program("run", out, "abc", "--output", target, "--json", report)
    assert outcome.stdout == f"Wrote 1 sequence to {target}\n"
    assert json.loads(report.read_text())["output"] == str(target)
    result = CliRunner().invoke(cli, ["run", str(out), "abc", "--output", "-", "--json", str(report)])
    assert json.loads(result.stdout)["input_ids"] == [99, 100, 101]
    assert json.loads(report.read_text())["output"] == "-"
