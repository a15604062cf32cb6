"""The program behind `make gpu-check`, with commands that need no GPU."""

from __future__ import annotations

import sys

import pytest

from tests.gpu import check
from tests.gpu.check import Outcome, Step, find_skips, run_plan


@pytest.fixture(autouse=True)
def logs(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "LOGS", tmp_path / "logs")
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def python(code, **options):
    return Step("a step", (sys.executable, "-c", code), **options)


def test_a_step_that_holds_leaves_its_last_line(logs):
    outcome = Outcome()
    assert run_plan([python("print('== 3 passed =='); print()")], outcome)
    assert (outcome.lines, outcome.missing, outcome.failed) == (["a step: 3 passed"], [], [])
    assert (logs / "checks.txt").read_text() == "a step: 3 passed\n"
    assert "3 passed" in (logs / "a-step.log").read_text()


def test_a_failure_ends_the_plan_and_is_told():
    outcome = Outcome()
    assert not run_plan([python("raise SystemExit(3)"), python("print('not reached')")], outcome)
    assert outcome.lines == ["a step: FAILED"]
    assert "exit status 3, expected 0" in outcome.failed[0]


@pytest.mark.parametrize(
    "step",
    [
        python("raise SystemExit(3)", optional=True),
        Step("a step", ("no-such-program-here",), may_be_absent=True),
        Step("a step", ("no-such-program-here",), optional=True),
    ],
)
def test_what_is_missing_does_not_end_the_plan(step, logs):
    outcome = Outcome()
    assert run_plan([step, python("print('reached')")], outcome)
    assert outcome.lines == ["a step: missing", "a step: reached"]
    assert (len(outcome.missing), outcome.failed) == (1, [])
    assert "missing: a step" in (logs / "checks.txt").read_text()


def test_a_missing_program_fails_a_step_that_needs_it():
    outcome = Outcome()
    assert not run_plan([Step("a step", ("no-such-program-here",))], outcome)
    assert "no such program" in outcome.failed[0]


def test_an_error_the_sanitizer_finds_is_a_failure():
    assert not run_plan([python("raise SystemExit(99)", may_be_absent=True)], Outcome())


def test_another_status_can_be_the_expected_one():
    assert run_plan([python("raise SystemExit(2)", expected=2)], Outcome())
    assert not run_plan([python("", expected=2)], Outcome())


def test_environment_reaches_the_command():
    outcome = Outcome()
    step = python("import os; print(os.environ['REQUIRE_GPU'])", environment={"REQUIRE_GPU": "yes"})
    assert run_plan([step], outcome)
    assert outcome.lines == ["a step: yes"]


def test_skipped_tests_are_missing():
    text = (
        "SKIPPED [2] tests/a.py:3: no TensorRT\nSKIPPED [1] tests/b.py: no TensorRT\n"
        "SKIPPED [1] tests/c.py:9: got 'x', expected y\n3 passed, 4 skipped\n"
    )
    assert find_skips(text) == ["skipped: no TensorRT", "skipped: got 'x', expected y"]


def test_without_a_gpu_nothing_runs(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 2
    assert "got no GPU" in capsys.readouterr().out


def test_the_gpu_s_architecture(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 12.0; echo 8.9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check.find_architecture() == "120"


def test_every_check_of_the_plan_runs_on_the_libraries_just_built():
    steps = check.plan_checks("/somewhere/bin/python")
    names = [step.name for step in steps]
    assert names == ["tests", *(f"compute-sanitizer {tool}" for tool in check.SANITIZER_TOOLS), "timings"]
    assert all(step.environment.items() >= check.LIBRARIES.items() for step in steps)
    assert steps[0].environment["REQUIRE_GPU"] == "1"
    assert not any(step.optional for step in steps)
