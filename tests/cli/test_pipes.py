"""Pipes that end and outputs that are full, after any number of bytes, for every command that prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.processes import run_into_file, run_on_pipe
from tests.runtimes.artifacts import write_artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server and Linux's pipes")

NO_COMPARISON = ("--against", "none", "--no-memory", "--repeat", "1", "--lengths", "8")
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "run": ("run", "OUT", "hello", "world"),
    "run --json": ("run", "OUT", "hello", "--json"),
    "run --output -": ("run", "OUT", "hello", "--output", "-"),
    "generate": ("generate", "OUT", "--prompt", "a", "--max-new-tokens", "60", "--temperature", "0"),
    "generate --json": ("generate", "OUT", "--prompt", "a", "--max-new-tokens", "60", "--json"),
    "inspect": ("inspect", "OUT"),
    "inspect --json": ("inspect", "OUT", "--json"),
    "doctor": ("doctor",),
    "doctor --json": ("doctor", "OUT", "--json"),
    "bench": ("bench", "OUT", *NO_COMPARISON),
    "bench --json -": ("bench", "OUT", *NO_COMPARISON, "--json", "-"),
}
SHORTEST = 60
"""Bytes that each of them prints at least."""

PIPE_ENDED, INPUT_AT_FAULT = 141, 2


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("pipes") / "out")


def arguments(name: str, out: Path) -> tuple[str, ...]:
    return tuple(str(out) if word == "OUT" else word for word in COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_that_nobody_reads(name: str, out: Path) -> None:
    ended = run_on_pipe(arguments(name, out), read_bytes=0)
    assert ended.status == PIPE_ENDED
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(COMMANDS)), read_bytes=st.integers(1, 3000))
def test_a_pipe_that_ends(name: str, read_bytes: int, out: Path) -> None:
    """The rest may be in the pipe already when its reader leaves: then the program has not noticed."""
    ended = run_on_pipe(arguments(name, out), read_bytes)
    assert ended.status in (0, PIPE_ENDED)
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(COMMANDS)), max_bytes=st.integers(0, SHORTEST - 1))
def test_an_output_that_is_full(name: str, max_bytes: int, out: Path) -> None:
    ended = run_into_file(arguments(name, out), out.parent / "printed", max_bytes)
    assert ended.status == INPUT_AT_FAULT
    assert len(ended.stdout) == max_bytes
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: standard output: got 'File too large', expected a writable place")
    assert "Traceback" not in ended.stderr


def test_the_whole_is_longer_than_the_limits(out: Path) -> None:
    for name in COMMANDS:
        ended = run_on_pipe(arguments(name, out))
        assert (ended.status, len(ended.stdout) >= SHORTEST) == (0, True), (name, ended)
