from __future__ import annotations

import dataclasses
import stat
import sys
from pathlib import Path

import pytest

from reformer_export.measure import memory, one_pass
from reformer_export.measure.contenders import Setup
from reformer_export.measure.memory import (
    OF_THE_GPU,
    OF_THE_PASS,
    OF_THE_PROCESS,
    PassFailedError,
    measure_pass,
)
from reformer_export.runtimes import RuntimeOptions
from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup("artifact", str(write_artifact(tmp_path / "out")), RuntimeOptions(provider="cpu", threads=1))


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program nvidia-smi, first on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_a_pass_that_fails_says_why_in_one_line(setup: Setup) -> None:
    with pytest.raises(PassFailedError, match="expected at most 64") as caught:
        measure_pass(setup, 1, 65)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_pass_in_a_process_of_its_own(setup: Setup) -> None:
    found = measure_pass(setup, 2, 8)
    assert found is not None
    assert found.measured == OF_THE_PASS
    assert found.peak_bytes >= found.loaded_bytes > 10**7
    assert 0 < found.seconds < 60


def test_a_process_that_the_system_ends(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    monkeypatch.setattr(memory.sys, "executable", str(killed))
    with pytest.raises(PassFailedError, match="the system ended it"):
        measure_pass(setup, 1, 8)


def test_gpu_memory_is_what_the_process_added(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs; 100 MiB more at each question: before, loaded, after the pass."""
    count = tmp_path / "count"
    count.write_text("0")
    put_nvidia_smi(
        tmp_path,
        monkeypatch,
        f"p = open({str(count)!r}, 'r+'); n = int(p.read()); p.seek(0); p.write(str(n + 1))\n"
        "print(500 + 100 * n); print(7)",
    )
    found = one_pass.run_once(dataclasses.replace(setup, device="cuda"), 1, 8)
    assert found is not None
    assert (found.loaded_bytes, found.peak_bytes, found.measured) == (100 * 2**20, 200 * 2**20, OF_THE_GPU)
    assert 0 < found.seconds < 60


def test_no_nvidia_smi_or_a_broken_one_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory.gpu_bytes() is None
    put_nvidia_smi(tmp_path, monkeypatch, "raise SystemExit(9)")
    assert memory.gpu_bytes() is None


def test_where_the_peak_cannot_be_set_back_the_words_say_so(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "reset_peak", lambda: False)
    found = one_pass.run_once(setup, 1, 8)
    assert found is not None
    assert found.measured == OF_THE_PROCESS
    assert found.peak_bytes >= found.loaded_bytes > 10**7
