"""Ctrl-C while the program's modules are imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from reformer_export.cli.interrupts import EXIT_INTERRUPTED, INTERRUPTED, end_quietly, leaving_at_interrupt

TRACE = "import time:"
"""What Python begins a line with that says which module was imported, innermost first."""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT of its own for a process")
@pytest.mark.parametrize("module", ["click.exceptions", "click", "reformer_export.cli.main", "numpy"])
def test_it_ends_the_program_in_one_line(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "reformer_export", "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.split("|")[-1].strip() == module:
            break
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    said = [line for line in stderr.splitlines() if not line.startswith(TRACE)]
    assert (process.returncode, stdout, said[-1:]) == (EXIT_INTERRUPTED, "", [INTERRUPTED])
    assert "Traceback" not in stderr
    assert len(said) <= 2  # a line of the trace may have been cut


def test_one_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with leaving_at_interrupt():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        end_quietly()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    with leaving_at_interrupt():
        assert signal.getsignal(signal.SIGINT) not in (before, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) == before
