"""A file's name in place of a text, a prompt without a flag, and an output that is finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import run_program, snapshot


@pytest.mark.parametrize(("command", "flag"), [("run", "--file"), ("generate", "--prompt-file")])
def test_a_file_s_name_asks_what_was_meant(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("abc\n")
    for name in ("file.txt", "./file.txt", str(tmp_path / "file.txt")):
        outcome = run_program(command, out, name)
        assert (outcome.status, outcome.stdout) == (2, "")
        assert outcome.error.startswith(
            f"Error: TEXT: got '{name}', the name of a file here, expected a text;"
        )
        assert f"was {flag} {name} meant?" in outcome.error
    assert "'-', the name of standard input, expected a text; was --file - meant?" in (
        run_program(command, out, "-").error
    )
    for text in ("./other.txt", "out", "file.txt and more"):  # no file's name
        assert run_program("run", out, text).status == 0


def test_the_name_itself_can_be_run_and_continued(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").touch()
    (tmp_path / "name.jsonl").write_text('{"text": "f"}\n')
    assert run_program("run", out, "--file", "name.jsonl").status == 0
    outcome = run_program("generate", out, "--prompt", "f", "--temperature", 0, "--max-new-tokens", 1)
    assert outcome.stdout == "g\n"


def test_generate_takes_its_text_as_run_does(out: Path) -> None:
    options = ("--temperature", 0, "--max-new-tokens", 4)
    assert run_program("generate", out, "ab", *options).stdout == "cdef\n"
    assert run_program("generate", out, "--prompt", "ab", *options).stdout == "cdef\n"


@pytest.mark.parametrize("json_option", [(), ("--json", "-")])
def test_a_finished_output_is_left_as_it_is(out: Path, tmp_path: Path, json_option: tuple[str, ...]) -> None:
    (tmp_path / "in.txt").write_text("abc\nx\n")
    target = tmp_path / "o.jsonl"
    arguments = ("run", out, "--file", tmp_path / "in.txt", "--output", target, "--resume")
    assert run_program(*arguments).status == 0
    before = snapshot(tmp_path)
    modified = target.stat().st_mtime_ns
    (out / "model.onnx").rename(out / "away")  # it is not even opened
    outcome = run_program(*arguments, *json_option)
    (out / "away").rename(out / "model.onnx")
    assert outcome.status == 0
    assert outcome.stderr == f"{target} is finished: nothing was done. --restart would write it anew.\n"
    assert (snapshot(tmp_path), target.stat().st_mtime_ns) == (before, modified)
    if json_option:
        assert json.loads(outcome.stdout)["sequences"] == 0
    again = run_program(*arguments[:-1], "--restart")
    assert (again.status, again.stdout) == (0, f"Wrote 2 sequences to {target}\n")
