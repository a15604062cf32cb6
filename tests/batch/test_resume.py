"""Runs that are killed or stopped, and gone on with: the file is that of a run without a break."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from reformer_export.batch import resume as resumable_file
from reformer_export.batch import run as engine
from reformer_export.batch.batching import run_window
from reformer_export.cli.main import cli
from tests.cli.program import run_program
from tests.edits import change_json
from tests.runtimes.artifacts import write_artifact

OPTIONS = ("--on-error", "skip", "--threads", 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out", "text-classification")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "o.jsonl"


def write_input(path: Path, lines: int) -> Path:
    generator = random.Random(0)
    with path.open("w") as stream:
        for number in range(1, lines + 1):
            ids = [generator.randrange(258) for _ in range(generator.randint(1, 24))]
            stream.write(json.dumps({"input_ids": ids} if number % 97 else {"input_ids": [999]}) + "\n")
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, arguments)])


def stop_after(monkeypatch: pytest.MonkeyPatch, windows: int, error: BaseException) -> None:
    """Let the next run end with `error` after so many windows."""
    left = windows

    def count(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            monkeypatch.undo()
            raise error
        return run_window(*arguments)

    monkeypatch.setattr(engine, "run_window", count)


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def _run(arguments: list[str]) -> None:
    resumable_file.STATE_SECONDS = 0.0  # type: ignore[misc]
    os._exit(run_program(*arguments).status)  # type: ignore[arg-type]


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxruntime", "reformer_export.cli.main", __name__])
    process = context.Process(target=_run, args=(["run", *map(str, arguments)],))
    process.start()
    return process


def wait_for_lines(target: Path, process: multiprocessing.process.BaseProcess, lines: int) -> int:
    """The lines that the state counts, once they are more than `lines` or the process has ended."""
    state = target.parent / f"{target.name}.partial.json"
    while process.is_alive():
        try:
            done = int(json.loads(state.read_text())["consumed"]["lines"])
        except FileNotFoundError:
            done = 0
        if done > lines:
            return done
        time.sleep(0.001)
    return lines


@pytest.mark.skipif(sys.platform != "linux", reason="forks a server")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_at_random_moments_change_no_byte(
    out: Path, tmp_path: Path, target: Path, number: signal.Signals
) -> None:
    source = write_input(tmp_path / "in.jsonl", 6000)
    options = ("--file", source, *OPTIONS, "--batch-size", 8, "--window", 64)
    assert invoke(out, *options, "--output", tmp_path / "whole.jsonl").exit_code == 1
    generator = random.Random(number)
    kills = done = 0
    while not target.exists():
        process = start(out, *options, "--output", target, "--resume")
        done = wait_for_lines(target, process, done)
        time.sleep(generator.uniform(0, 0.05))
        assert process.pid is not None
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(process.pid, number)
        process.join()
        kills += process.exitcode in (-number, 128 + number)
        assert kills < 500
    assert kills >= 3
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "o.jsonl.partial" not in names(target)


@pytest.mark.parametrize("suffix", [".jsonl", ".npy", ".npz"])
@pytest.mark.parametrize("windows", [1, 5, 9])
def test_every_kind_of_input_goes_on(
    out: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, windows: int
) -> None:
    source = tmp_path / f"in{suffix}"
    ids = np.random.default_rng(0).integers(0, 262, (300, 3))
    if suffix == ".jsonl":
        write_input(source, 300)
    elif suffix == ".npy":
        np.save(source, ids)
    else:
        np.savez_compressed(source, input_ids=ids, attention_mask=np.ones_like(ids))
    options = ("--file", source, *OPTIONS, "--batch-size", 8, "--window", 32, "--json")
    whole = invoke(out, *options, "--output", tmp_path / "whole.jsonl")
    stop_after(monkeypatch, windows, KeyboardInterrupt())
    stopped = invoke(out, *options, "--output", target)
    assert stopped.exit_code == 130
    assert f"first {32 * windows} lines in {target}.partial" in stopped.stderr
    assert f"Interrupted: {target} is as it was." in stopped.stderr
    assert names(target) == ["o.jsonl.partial", "o.jsonl.partial.json"]
    resumed = invoke(out, *options, "--output", target, "--resume")
    assert resumed.exit_code == 1
    assert f"Goes on after the first {32 * windows} lines." in resumed.stderr
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert names(target) == ["o.jsonl"]
    totals = [json.loads(result.stdout) for result in (whole, resumed)]
    for values in totals:
        del values["seconds"], values["output"]
    assert totals[0] == totals[1]


@pytest.fixture
def stopped(out: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The arguments of a run that was stopped after 40 of 100 lines."""
    source = write_input(tmp_path / "in.jsonl", 100)
    arguments = (out, "--file", source, *OPTIONS, "--output", target)
    stop_after(monkeypatch, 40, KeyboardInterrupt())
    assert invoke(*arguments).exit_code == 130
    return arguments


def test_torn_lines_are_written_again(stopped: tuple[object, ...], tmp_path: Path, target: Path) -> None:
    """Whatever stands behind what the state counts."""
    whole = tmp_path / "whole.jsonl"
    assert invoke(*stopped[:-1], whole).exit_code == 1
    partial, state = (target.parent / f"o.jsonl.partial{end}" for end in ("", ".json"))
    kept, said = partial.read_bytes(), state.read_text()
    for behind in (b"{", b'{"index": 40, "input_ids": [', whole.read_bytes()[len(kept) :]):
        partial.write_bytes(kept + behind)
        state.write_text(said)
        assert invoke(*stopped, "--resume").exit_code == 1
        assert target.read_bytes() == whole.read_bytes()


def test_what_was_left_is_not_overwritten(stopped: tuple[object, ...], target: Path) -> None:
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    message = str(invoke(*stopped).exception)
    assert "an interrupted run has left" in message
    assert "--resume" in message
    assert "--restart" in message
    assert before == {path.name: path.read_bytes() for path in target.parent.iterdir()}
    result = invoke(*stopped, "--restart")
    assert result.exit_code == 1
    assert "Goes on" not in result.stderr
    assert len(target.read_text().splitlines()) == 100
    assert names(target) == ["o.jsonl"]


def refuse(message: str, target: Path, *arguments: object) -> None:
    """`--resume` is refused, and what was left stays as it is."""
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert re.search(message, str(invoke(*arguments, "--resume").exception))
    assert before == {path.name: path.read_bytes() for path in target.parent.iterdir()}


def test_another_input_is_refused(stopped: tuple[object, ...], tmp_path: Path, target: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = source.read_text().splitlines(keepends=True)
    for changed in (["{}\n", *lines[1:]], lines[1:], lines[:20], []):
        source.write_text("".join(changed))
        refuse("first 40 lines are not those", target, *stopped)


def test_what_comes_after_may_change(stopped: tuple[object, ...], tmp_path: Path, target: Path) -> None:
    """A line that stopped the run can be mended, and more lines can follow."""
    with (tmp_path / "in.jsonl").open("a") as stream:
        stream.write('{"input_ids": [5]}\n' * 10)
    assert invoke(*stopped, "--resume").exit_code == 1
    assert [json.loads(line)["index"] for line in target.read_text().splitlines()] == list(range(110))


def test_a_mended_line(out: Path, tmp_path: Path, target: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"input_ids": [5]}\n' * 3 + "{\n" + '{"input_ids": [6]}\n')
    result = invoke(out, "--file", source, "--output", target)
    assert f"{source}, line 4: got no JSON" in str(result.exception)
    assert "first 3 lines" in result.stderr
    source.write_text('{"input_ids": [5]}\n' * 4 + '{"input_ids": [6]}\n')
    assert invoke(out, "--file", source, "--output", target, "--resume").exit_code == 0
    assert [json.loads(line)["input_ids"] for line in target.read_text().splitlines()] == [[5]] * 4 + [[6]]


def test_other_options_or_another_artifact_are_refused(
    stopped: tuple[object, ...], tmp_path: Path, target: Path
) -> None:
    refuse("got rows 4, expected 1", target, *stopped, "--batch-size", 4)
    refuse("got window 7, expected 1024", target, *stopped, "--window", 7)
    refuse("got mixes_lengths True", target, *stopped, "--pad")
    refuse("got format 'text', expected 'jsonl'", target, *stopped, "--format", "text")
    other = write_artifact(tmp_path / "other", "text-classification", vocab_size=300)
    refuse("got artifact '[0-9a-f]{64}', expected", target, other, *stopped[1:])


@pytest.mark.parametrize(
    "damage",
    ["", "[" * 10**5, "{}", '{"version": 2}', "null", '{"version": 1, "identity": {}}', None],
)
def test_a_damaged_state_is_refused(stopped: tuple[object, ...], target: Path, damage: str | None) -> None:
    state = target.parent / "o.jsonl.partial.json"
    if damage is None:
        state.unlink()
    else:
        state.write_text(damage)
    refuse("missing or damaged", target, *stopped)


@pytest.mark.parametrize("change", [{"size": -1}, {"size": 10**9}, {"consumed": 3}, {"totals": {"x": 1}}])
def test_a_state_that_lies_is_refused(
    stopped: tuple[object, ...], target: Path, change: dict[str, Any]
) -> None:
    change_json(target.parent / "o.jsonl.partial.json", **change)
    refuse("missing or damaged", target, *stopped)


def test_two_runs_do_not_write_one_file(stopped: tuple[object, ...], target: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (target.parent / "o.jsonl.partial").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        refuse("another process is writing", target, *stopped)
        assert "another process is writing" in str(invoke(*stopped, "--restart").exception)


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size")
def test_a_full_disk_keeps_what_it_says(out: Path, tmp_path: Path, target: Path) -> None:
    """The limit on a file's size stands for the disk's end; the lines before it are gone on with."""
    source = write_input(tmp_path / "in.jsonl", 6000)
    options = ("--file", source, *OPTIONS, "--batch-size", 8, "--window", 64, "--output")
    assert invoke(out, *options, tmp_path / "whole.jsonl").exit_code == 1
    program = [sys.executable, "-m", "reformer_export.cli.main", "run", str(out), *map(str, options)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    full = subprocess.run(
        [*program, str(target)], capture_output=True, text=True, check=False, preexec_fn=limit
    )
    assert full.returncode == 2, full.stderr
    assert "File too large" in full.stderr
    kept = re.search("Kept what was made of the first ([0-9]+) lines", full.stderr)
    assert kept is not None
    resumed = invoke(out, *options, target, "--resume")
    assert f"Goes on after the first {kept[1]} lines." in resumed.stderr
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_resume_without_anything_to_resume_starts(out: Path, tmp_path: Path, target: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", 5)
    result = invoke(out, "--file", source, "--output", target, "--resume")
    assert result.exit_code == 0
    assert "Goes on" not in result.stderr
    assert names(target) == ["o.jsonl"]


def test_nothing_is_kept_of_nothing(out: Path, tmp_path: Path, target: Path) -> None:
    for content in ("", "{\n"):
        (tmp_path / "in.jsonl").write_text(content)
        target.write_text("old")
        assert invoke(out, "--file", tmp_path / "in.jsonl", "--output", target).exit_code == 1
        assert names(target) == ["o.jsonl"]
        assert target.read_text() == "old"
