"""Standard streams that are closed, full or shared with a program that does not wait."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.manifest import read_manifest
from reformer_export.cli.failures import leave_on_termination
from reformer_export.cli.standard_streams import guard_standard_streams
from tests.hf_models import config_t, save_model
from tests.runtimes.artifacts import write_artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a POSIX shell and /dev/full")

PROGRAM = f"{sys.executable} -m reformer_export"


def run_in_shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)


def test_a_closed_standard_output(tmp_path: Path) -> None:
    ended = run_in_shell(f"{PROGRAM} run {write_artifact(tmp_path / 'out')} hi >&-")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert ended.stderr.startswith(
        "Error: standard output: got a closed one, expected one to show results on"
    )


def test_a_closed_standard_error_and_input(tmp_path: Path) -> None:
    ended = run_in_shell(f"{PROGRAM} generate {write_artifact(tmp_path / 'out')} --prompt a 2>&- <&-")
    assert (ended.returncode, ended.stdout != "") == (0, True)


def test_a_full_standard_error_stops_nothing(tmp_path: Path) -> None:
    ended = run_in_shell(f"{PROGRAM} run {write_artifact(tmp_path / 'out')} hi 2>/dev/full")
    assert (ended.returncode, "next token" in ended.stdout) == (0, True)


@pytest.mark.slow
def test_a_full_standard_output_of_an_export(tmp_path: Path) -> None:
    """The artifact is there; that nobody could be told is status 2."""
    import transformers

    checkpoint = save_model(tmp_path, config_t(), transformers.ReformerModel)
    ended = run_in_shell(f"{PROGRAM} onnx {checkpoint} {tmp_path}/out --no-verify >/dev/full")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("Error: standard output: got 'No space left on device'")
    assert read_manifest(tmp_path / "out").parity is None


def test_a_pipe_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that share a pipe make it non-blocking for all; what is written then comes in parts."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = bytearray()

    def read() -> None:
        while block := os.read(reader, 4096):
            received.extend(block)

    thread = threading.Thread(target=read)
    thread.start()
    text = "x" * 10**6
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(writer, "w", closefd=False)))
    with guard_standard_streams():
        sys.stdout.write(text)
        sys.stdout.flush()
    os.close(writer)
    thread.join()
    os.close(reader)
    assert received.decode() == text


def test_any_text_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    stream = io.TextIOWrapper(io.FileIO(writer, "w", closefd=False), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with guard_standard_streams():
        sys.stdout.write("\N{GREEK SMALL LETTER ALPHA}\udcff \N{LATIN SMALL LETTER E WITH ACUTE}")
    os.close(writer)
    assert os.read(reader, 100) == b"?? \xe9"
    os.close(reader)


class _RawThatIsSignalled(io.RawIOBase):
    """Where a stream's bytes go; SIGTERM comes in the middle of the first write."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.data:
            self.data = b"("
            signal.raise_signal(signal.SIGTERM)
        self.data += bytes(data)
        return len(data)


def test_a_signal_in_the_middle_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it waits until the stream is free: else Python refuses a call inside a call."""
    raw = _RawThatIsSignalled()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True))
    with pytest.raises(SystemExit) as end, leave_on_termination("nothing was left"):
        print("some progress", file=sys.stderr)
    assert end.value.code == 128 + signal.SIGTERM
    assert raw.data.endswith(b"Terminated: nothing was left.\n")
