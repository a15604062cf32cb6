"""Packages that are missing: one line with the pip command, before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reformer_export.errors import MissingDependencyError
from reformer_export.libraries.packages import EXTRAS, require_packages
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact


def test_nothing_is_missing() -> None:
    require_packages("this", tuple(EXTRAS))


def test_the_command_brings_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "matplotlib", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError) as caught:
        require_packages("verifying", ("torch", "numpy", "onnx", "matplotlib", "torch"))
    assert str(caught.value) == (
        "verifying: got no packages torch, onnx, matplotlib, expected what it works with; "
        "pip install 'reformer-export[export,report]'"
    )


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", ("onnx", "no-checkpoint", "new"), "export"),
        ("transformers", ("onnx", "no-checkpoint", "new"), "export"),
        ("onnxscript", ("onnx", "no-checkpoint", "new", "--no-verify"), "export"),
        ("torch", ("verify", "OUT"), "export"),
        ("onnx_graphsurgeon", ("verify", "OUT"), "export"),
        ("matplotlib", ("verify", "OUT", "--report", "PAGE"), "report"),
        ("jinja2", ("verify", "OUT", "--report", "PAGE"), "report"),
        ("matplotlib", ("bench", "OUT", "--report", "PAGE"), "report"),
        ("matplotlib", ("inspect", "OUT", "--report", "PAGE"), "report"),
    ],
)
def test_commands_say_it_first(
    module: str, arguments: tuple[str, ...], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_artifact(tmp_path / "out")
    monkeypatch.setitem(sys.modules, module, None)
    given = {"OUT": out, "PAGE": tmp_path / "page.html"}
    outcome = run_program(*(given.get(word, word) for word in arguments))
    assert (outcome.status, outcome.stdout) == (2, "")
    assert f"got no package {module}, expected" in outcome.error
    assert outcome.stderr.rstrip().endswith(f"pip install 'reformer-export[{extra}]'")
    assert len(outcome.stderr.splitlines()) == 1
