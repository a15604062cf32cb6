from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from reformer_export import __version__
from reformer_export.cli import main as main_module
from reformer_export.cli.main import COMMANDS, cli
from reformer_export.errors import ReformerExportError
from tests.cli.program import run_program


def test_version() -> None:
    outcome = run_program("--version")
    assert (outcome.status, outcome.stdout) == (0, f"reformer-export, version {__version__}\n")


def test_help_names_every_command() -> None:
    outcome = run_program("--help")
    assert outcome.status == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", outcome.stdout, re.MULTILINE)


def test_nothing_asked_shows_the_help() -> None:
    outcome = run_program()
    assert outcome == run_program("--help")
    assert (outcome.status, outcome.stderr) == (0, "")


def test_the_list_of_commands_has_whole_sentences() -> None:
    listed = " ".join(run_program().stdout.partition("Commands:")[2].split())
    for name in COMMANDS:
        assert re.search(rf"(^|\. ){name} [A-Z][^.]*(\.[a-z][^.]*)*\.", listed), name
    assert "..." not in listed


@pytest.mark.parametrize("arguments", [("--help",), ("doctor", "--debug", "--help")])
def test_the_package_runs_as_a_module(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "reformer_export", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == run_program(*arguments).stdout
    assert ended.stdout.startswith("Usage: reformer-export ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_help_has_an_example(command: str) -> None:
    outcome = run_program(command, "-h")
    assert outcome.status == 0
    assert re.search(rf"Examples:\n +reformer-export {command}\b", outcome.stdout)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"build-library"}))
def test_completion_offers_files_where_a_folder_stands(command: str) -> None:
    shell = ShellComplete(cli, {}, "reformer-export", "_REFORMER_EXPORT_COMPLETE")
    assert [item.type for item in shell.get_completions([command], "./my-")] == ["file"]


def test_an_unknown_command() -> None:
    outcome = run_program("optimise")
    assert outcome.status == 2
    assert "No such command 'optimise'. See" in outcome.error
    assert "No such command 'serv'. Did you mean 'serve'? See" in run_program("serv", "OUT").error


@pytest.mark.parametrize("command", ["onnx", "verify"])
def test_missing_and_unknown_arguments(command: str) -> None:
    assert "Missing argument" in run_program(command).error
    outcome = run_program(command, "a", "b", "--fast")
    assert outcome.status == 2
    assert "--fast" in outcome.error


def test_an_error_is_one_line_and_debug_shows_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoLinesError(ReformerExportError):
        exit_status = 7

    def fail(*_arguments: object, **_options: object) -> None:
        raise TwoLinesError("one\n  two")

    monkeypatch.setattr(main_module.cli, "main", fail)
    outcome = run_program("doctor")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (7, "", "Error: one two\n")
    for arguments in (("--debug", "doctor"), ("doctor", "--debug")):
        with pytest.raises(TwoLinesError):
            run_program(*arguments)


@pytest.mark.parametrize("arguments", [("--debug", "inspect", "nowhere"), ("inspect", "nowhere", "--debug")])
def test_debug_anywhere(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ReformerExportError, match="no such file"):
        run_program(*arguments)


def test_an_interrupt_leaves_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module.cli, "main", interrupt)
    outcome = run_program("doctor")
    assert (outcome.status, outcome.messages) == (
        130,
        ["Interrupted: nothing half-written was left behind."],
    )


def test_help_is_quick() -> None:
    """Neither the help nor a wrong option waits for torch."""
    code = (
        "import sys\n"
        "from tests.cli.program import run_program\n"
        "for command in ('onnx', 'verify'):\n"
        "    run_program(command, '--help')\n"
        "    run_program(command, 'a', 'b', '--provider', 'x')\n"
        "run_program('verify', 'nowhere')\n"
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
