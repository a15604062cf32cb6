"""The program behind `make gpu-check`, with commands that need no GPU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import check
from tests.gpu.checks import plans
from tests.gpu.checks.plans import Layout, find_marked_tests, plan_build, plan_checks, plan_dry_run
from tests.gpu.checks.steps import Budget, Outcome, Step, find_skips, run_plan


def python(code, **options):
    return Step("a step", (sys.executable, "-c", code), **options)


@pytest.fixture
def run(tmp_path):
    """Runs steps: whether they went through, what came out."""

    def run_steps(*steps, budget=None):
        outcome = Outcome()
        return run_plan(steps, outcome, tmp_path, budget), outcome

    return run_steps


def test_a_step_that_holds_leaves_its_last_line(run, tmp_path):
    went, outcome = run(python("print('== 3 passed =='); print()", output=tmp_path / "output.txt"))
    assert went
    assert (outcome.lines, outcome.missing, outcome.failed) == (["a step: 3 passed"], [], [])
    assert "3 passed" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "output.txt").read_text() == "== 3 passed ==\n\n"


def test_a_failure_ends_the_plan_and_is_told(run):
    went, outcome = run(python("raise SystemExit(3)"), python("print('not reached')"))
    assert not went
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
def test_what_is_missing_does_not_end_the_plan(run, step):
    went, outcome = run(step, python("print('reached')"))
    assert went
    assert outcome.lines == ["a step: missing", "a step: reached"]
    assert (len(outcome.missing), outcome.failed) == (1, [])
    assert outcome.checks[2].startswith("missing: a step")


def test_a_missing_program_fails_a_step_that_needs_it(run):
    went, outcome = run(Step("a step", ("no-such-program-here",)))
    assert not went
    assert "no such program" in outcome.failed[0]


def test_an_error_the_sanitizer_finds_is_a_failure(run):
    assert not run(python("raise SystemExit(99)", may_be_absent=True))[0]


def test_another_status_can_be_the_expected_one(run):
    assert run(python("raise SystemExit(2)", expected=2))[0]
    assert not run(python("", expected=2))[0]


def test_environment_reaches_the_command(run):
    step = python("import os; print(os.environ['REQUIRE_GPU'])", environment={"REQUIRE_GPU": "yes"})
    assert run(step)[1].lines == ["a step: yes"]


def test_skipped_tests_are_missing():
    text = (
        "SKIPPED [2] tests/a.py:3: no TensorRT\nSKIPPED [1] tests/b.py: no TensorRT\n"
        "SKIPPED [1] tests/c.py:9: got 'x', expected y\n3 passed, 4 skipped\n"
    )
    assert find_skips(text) == ["skipped: no TensorRT", "skipped: got 'x', expected y"]


def test_a_budget_gives_a_step_what_it_may_take_as_long_as_it_lasts():
    now = [100.0]
    budget = Budget(90, clock=lambda: now[0])
    step = Step("a step", ("true",), seconds=60)
    assert budget.limit_of(step) == 60
    now[0] += 50
    assert budget.limit_of(step) == 40
    now[0] += 36
    assert budget.limit_of(step) == 0, "four seconds are no use"
    now[0] += 100
    assert budget.limit_of(step) == 0
    assert Budget(None).limit_of(step) is None


@pytest.mark.parametrize("partial", [True, False])
def test_a_step_is_stopped_with_its_children_when_its_time_ends(run, tmp_path, partial):
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(mark)!r}, 'w').close()"
    call = f"subprocess.run([sys.executable, '-c', {child!r}])"
    code = f"import subprocess, sys; print('begun', flush=True); {call}"
    begun = time.monotonic()
    went, outcome = run(python(code, partial=partial, seconds=1), budget=Budget(30))
    assert time.monotonic() - begun < 3
    assert went == partial, "what a partial step did is kept; any other failed"
    (told,) = outcome.missing if partial else outcome.failed
    assert "stopped after 1 s, see log.txt" in told
    time.sleep(3)
    assert not mark.exists()


def test_without_time_a_step_is_missing_and_the_others_are_asked(run):
    went, outcome = run(python("print('never')"), python("print('never')"), budget=Budget(1))
    assert went
    assert outcome.lines == []
    assert outcome.missing == ["a step: not run, no time was left"] * 2


def test_without_a_gpu_nothing_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["check.py", "--results", str(tmp_path / "results")])
    assert check.main() == 2
    assert "got no GPU" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_gpu_s_architecture(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 12.0; echo 8.9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check.find_architecture() == "120"


LAYOUT = Layout("/somewhere/bin/python", Path("/somewhere/lib"), Path("/results"))


def test_every_check_runs_on_the_libraries_just_built_the_most_valuable_first():
    steps = plan_checks(LAYOUT)
    names = [step.name for step in steps]
    wanted = [
        "tests of kernels",
        "tests of onnxruntime",
        "tests of execution",
        "TensorRT plugins on the GPU",
        *(f"compute-sanitizer {tool}" for tool in plans.SANITIZER_TOOLS),
        "layers",
        "steps",
        "whole models",
        "ONNX Runtime's kernels",
        "profile float16",
        "profile float32",
    ]
    assert [name for name in names if name in wanted] == wanted
    assert sum(step.seconds for step in steps if step.name in wanted[:7]) < 345 - 40, (
        "room for timings is left"
    )
    for step in steps:
        if step.name != "TensorRT plugins on the GPU":
            assert step.environment.items() >= LAYOUT.environment.items(), step.name
    assert all(step.environment["REQUIRE_GPU"] == "1" for step in steps if step.name.startswith("tests of"))
    assert [
        step.name for step in steps if step.optional and not step.name.startswith(("profile", "read"))
    ] == []


def test_what_is_built_is_what_the_checks_take():
    """By its name in the build's folder: cmake makes adapters/onnxruntime/... there, and so on."""
    *_, install = plan_build("python3", "90", LAYOUT.libraries)
    assert install.command[:4] == ("install", "-D", "-t", "/somewhere/lib")
    built = {Path(path).name for path in install.command[4:]}
    taken = {*map(Path, LAYOUT.environment.values()), LAYOUT.libraries / plans.PLUGIN_TEST}
    assert {LAYOUT.libraries / name for name in built} == taken
    for path in install.command[4:]:
        folder = plans.ROOT / "plugins" / Path(path).relative_to(plans.BUILD).parent
        assert folder.is_dir() or folder.name == "tests", folder


def test_every_test_that_wants_a_gpu_is_asked_once():
    marked = find_marked_tests()
    assert {
        "tests/gpu/test_kernels.py",
        "tests/gpu/test_tensorrt_engine.py",
        "tests/runtimes/test_cuda.py",
    } <= {*marked}
    asked = [
        argument
        for step in plan_checks(LAYOUT)
        if "pytest" in step.command
        for argument in step.command
        if argument.startswith("tests/")
    ]
    assert sorted(asked) == sorted(marked)


def test_steps_can_be_chosen():
    plan = plan_dry_run(LAYOUT)
    assert check.choose_steps(plan, None) == plan
    assert [step.name for step in check.choose_steps(plan, "refuse,a page")] == [
        "TensorRT plugins refuse",
        "layers refuse",
        "steps refuse",
        "models refuse",
        "kernels refuse",
        "profiles refuse",
        "a page",
    ]


def test_checks_stand_in_the_measurements(tmp_path):
    outcome = Outcome(lines=["tests: 3 passed"], missing=["ncu: no such program"])
    data = tmp_path / "gpu.json"
    check.write_checks(data, outcome)
    assert [path.name for path in tmp_path.iterdir()] == ["checks.txt"]
    data.write_text('{"layers": []}')
    check.write_checks(data, outcome)
    expected = ["tests: 3 passed", "missing: ncu: no such program"]
    assert json.loads(data.read_text()) == {"layers": [], "checks": expected}
    assert (tmp_path / "checks.txt").read_text().splitlines() == expected


def test_a_clone_keeps_what_was_measured(tmp_path, monkeypatch):
    """Under the card's name, with the page in docs made from it; elsewhere the page alone is made."""
    measured = plans.ROOT / "benchmarks" / "results" / "gpu-h200.json"
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(plans, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2])]))
    for folder in ("benchmarks/results", "docs", "results"):
        (tmp_path / folder).mkdir(parents=True)
    layout = Layout(sys.executable, tmp_path, tmp_path / "results")
    layout.data.write_bytes(measured.read_bytes())
    outcome = Outcome()
    check.write_pages(layout, outcome, in_clone=False)
    assert not list((tmp_path / "docs").iterdir())
    check.write_pages(layout, outcome, in_clone=True)
    assert outcome.failed == []
    kept = tmp_path / "benchmarks" / "results" / "gpu-h200.json"
    assert kept.read_bytes() == measured.read_bytes()
    page = (tmp_path / "docs" / "gpu-results.md").read_text()
    assert "Made from `benchmarks/results/gpu-h200.json`" in page


@pytest.mark.parametrize("data", [None, '{"checks": []}'])
def test_nothing_measured_is_said(tmp_path, data):
    outcome = Outcome()
    if data:
        (tmp_path / "gpu.json").write_text(data)
    check.write_pages(Layout(sys.executable, tmp_path, tmp_path), outcome, in_clone=True)
    assert outcome.missing == ["the page: nothing was measured"]


@pytest.mark.parametrize(
    ("card", "name"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"), ("Tesla T4", "tesla-t4")],
)
def test_a_card_s_short_name(card, name):
    assert check.short_name(card) == name


@pytest.mark.parametrize(
    ("python", "architecture", "word"),
    [
        ("3.12", "90", None),
        ("3.12", None, None),
        ("3.11", "90", "got 3.11, expected 3.12"),
        ("3.12", "80", "got compute capability 80, expected one of [86, 90]"),
    ],
)
def test_a_bundle_for_another_machine_is_refused(python, architecture, word):
    misfit = check.find_misfit({"python": "3.12", "architectures": [86, 90]}, python, architecture)
    assert misfit is None if word is None else word in misfit


def test_a_bundle_without_packages_is_for_any_python():
    assert check.find_misfit({"python": None, "architectures": [90]}, "3.10", None) is None
