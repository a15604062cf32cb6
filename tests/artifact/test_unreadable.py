"""Files that may not be read, and paths that are not UTF-8: one line that names the path, status 2."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs users and file names of bytes")

NOBODY = 65534

CODE = """
import importlib, os, sys
from reformer_export.cli import main as program
from tests.cli.program import run_program
for name in program.COMMANDS:
    importlib.import_module(f"reformer_export.cli.{name.replace('-', '_')}")
import onnx, onnxruntime
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for arguments in sys.argv[1:]:
    outcome = run_program(*arguments.split("|"))
    print(outcome.status, outcome.stdout, outcome.error if outcome.status == 2 else outcome.stderr)
"""


@pytest.fixture
def out() -> Iterator[Path]:
    """An artifact in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield write_artifact(Path(folder) / "out")


def run_as_nobody(*commands: str) -> list[str]:
    """What each command prints as a user who owns nothing; its words are parted by |."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE, *commands],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended
    return ended.stdout.splitlines()


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_file_that_may_not_be_read(out: Path, name: str) -> None:
    (out / name).chmod(0o600 if os.getuid() == 0 else 0)
    lines = run_as_nobody(f"inspect|{out}", f"inspect|{out}|--json", f"run|{out}|hi")
    assert len(lines) == 3
    for line in lines:
        expected = f"2  Error: {out / name}: got 'Permission denied', expected a readable file; check"
        assert line.startswith(expected)


def test_a_folder_that_may_not_be_entered(out: Path) -> None:
    out.chmod(0o700 if os.getuid() == 0 else 0)
    for line in run_as_nobody(f"inspect|{out}", f"doctor|{out}", f"run|{out}|hi"):
        assert line.startswith("2  Error: ")
        assert str(out) in line
        assert "Permission denied" in line or "is not readable" in line
    out.chmod(0o700)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_path_that_is_not_utf8(out: Path, locale: str) -> None:
    path = os.fsencode(out) + b"\xff"
    out.rename(os.fsdecode(path))
    ended = subprocess.run(
        [sys.executable, "-m", "reformer_export", "run", path, "hi"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LC_ALL": locale},
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{out}\\udcff/model.onnx: got a path that is not UTF-8" in ended.stderr


def test_an_export_to_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    error = run_program("onnx", "nowhere", os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).error
    assert "got a path that is not UTF-8" in error
