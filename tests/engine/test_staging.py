"""Builds that something stops: the old engine or the new one is there, and no process stays."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import read_engine_record
from reformer_export.artifact.files import sha256_of_file
from reformer_export.engine import build_engine
from tests.cli.program import snapshot
from tests.engine.builds import RTX, engine_files


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3])  # the new record, the engine, the record in its place
def test_an_interrupt_while_moving_leaves_the_old_engine_or_the_new_one(
    out: Path, monkeypatch: pytest.MonkeyPatch, links: bool, old: bool, after: bool, step: int
) -> None:
    """The rename numbered `step` is interrupted before or after it happened."""
    if old:
        build_engine(out, RTX)
    before = snapshot(out)
    monkeypatch.setenv("FAKE_TENSORRT_SALT", "another engine")
    real, done = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal done
        done += 1
        if done != step or after:
            real(source, target)
        if done == step:
            raise KeyboardInterrupt

    def refuse(source: Any, target: Any) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "replace", replace)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(KeyboardInterrupt):
        build_engine(out, dataclasses.replace(RTX, overwrite=True))
    monkeypatch.undo()
    if step == 3 and after:
        record = read_engine_record(out, "tensorrt-rtx")
        assert sha256_of_file(out / "engines" / "tensorrt-rtx.engine") == record.engine_sha256
        assert snapshot(out) != before
        assert engine_files(out) == {"tensorrt-rtx.engine", "tensorrt-rtx.json"}
    else:
        assert snapshot(out) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_while_moving_leaves_an_engine_with_its_record(
    out: Path, monkeypatch: pytest.MonkeyPatch, old: bool, step: int
) -> None:
    """Killed before the rename numbered `step`: whichever engine is there, its record is found."""
    first = build_engine(out, RTX).record if old else None
    monkeypatch.setenv("FAKE_TENSORRT_SALT", "another engine")
    child = os.fork()
    if child == 0:
        try:
            _kill_before_rename(step)
            build_engine(out, dataclasses.replace(RTX, overwrite=True))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    engine = out / "engines" / "tensorrt-rtx.engine"
    assert engine.exists() == (old or step == 3)
    if engine.exists():
        record = read_engine_record(out, "tensorrt-rtx")
        assert sha256_of_file(engine) == record.engine_sha256
        assert (record == first) == (step < 3)
    monkeypatch.setenv("FAKE_TENSORRT_SALT", "a third engine")
    third = build_engine(out, dataclasses.replace(RTX, overwrite=True)).record
    assert read_engine_record(out, "tensorrt-rtx") == third
    assert sha256_of_file(engine) == third.engine_sha256
    assert not (out / "engines" / ".tensorrt-rtx.staged").exists()


def _kill_before_rename(step: int) -> None:
    """SIGKILL this process when it would call os.replace for the time numbered `step`."""
    real, done = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal done
        done += 1
        if done == step:
            signal.raise_signal(signal.SIGKILL)
        real(source, target)

    os.replace = replace


def test_what_a_killed_build_left_is_removed(out: Path) -> None:
    for name, age in (
        (".tensorrt-rtx.partial-1", 3600),
        (".tensorrt-rtx.partial-2", 0),
        (".x.partial-3", 3600),
    ):
        (out / "engines" / name).mkdir(parents=True)
        (out / "engines" / name / "engine").write_bytes(b"half")
        os.utime(out / "engines" / name, (time.time() - age,) * 2)
    build_engine(out, RTX)
    left = {name for name in engine_files(out) if name.startswith(".")}
    assert left == {".tensorrt-rtx.partial-2", ".x.partial-3"}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_program_s_end_is_the_building_process_s_end(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("FAKE_TENSORRT", f"hang {pid_file}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    before = snapshot(out)
    command = [
        sys.executable,
        "-m",
        "reformer_export.cli.main",
        "engine",
        str(out),
        "--runtime",
        "tensorrt-rtx",
    ]
    program = subprocess.Popen(
        [*command, "--compute-capability", "8.0"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ready = pid_file.with_suffix(".ready")
    wait_until(ready.exists)
    worker = int(ready.read_text())
    assert is_alive(worker)
    program.send_signal(number)
    _, stderr = program.communicate(timeout=30)
    wait_until(lambda: not is_alive(worker))
    assert program.returncode in (status, -number)
    if number != signal.SIGKILL:
        assert "nothing half-written was left behind" in stderr
        assert snapshot(out) == before


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)
