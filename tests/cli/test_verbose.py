"""-v says what is used and how long it takes; without it nothing of that is said."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import reformer_export
from reformer_export.phases import LOGGER
from tests.cli.program import run_program


@pytest.mark.parametrize("place", ["before", "after", "long", "both"])
def test_libraries_options_and_phases_are_told(out: Path, place: str) -> None:
    command = ("run", out, "--ids", "5", "--threads", 1, "--provider", "cpu")
    before = ("-v",) if place in ("before", "both") else ()
    after = {"before": (), "after": ("-v",), "long": ("--verbose",), "both": ("-v",)}[place]
    outcome = run_program(*before, *command, *after)
    assert outcome.status == 0
    lines = outcome.stderr.splitlines()
    assert "providers and their options: [('CPUExecutionProvider', {})]" in lines
    assert "threads of an operator: 1" in lines
    assert len([line for line in lines if line.startswith("ONNX Runtime: ")]) == 1
    assert any(line.startswith("operator library: ") for line in lines)
    for phase in (f"opening {out}/model.onnx", "comparing the artifact's files with", "reformer-export run"):
        (line,) = [line for line in lines if line.startswith(phase)]
        assert re.search(r": \d+\.\d{3} s$", line)
    assert outcome.stdout == run_program(*command).stdout


def test_without_it_nothing_is_said_and_nothing_stays(out: Path) -> None:
    quiet = run_program("run", out, "--ids", "5")
    run_program("-v", "run", out, "--ids", "5")
    again = run_program("run", out, "--ids", "5")
    assert quiet.stderr == again.stderr
    assert " s" not in quiet.stderr
    assert (LOGGER.handlers, LOGGER.level) == ([], logging.NOTSET)


def test_a_python_program_hears_it_too(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="reformer_export"), reformer_export.load(out, provider="cpu"):
        pass
    assert any(message.startswith("opening ") for message in caplog.messages)
