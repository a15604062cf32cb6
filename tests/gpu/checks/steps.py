"""One command after the other, each with its limit of time; what came out, what failed, what was missing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

LEAST_SECONDS: Final = 5.0
"""With less than this left nothing is begun."""

LOG_NAME: Final = "log.txt"


@dataclass(frozen=True)
class Step:
    """One command; `expected` is the exit status of one that does what it should.

    When an `optional` one fails, or the program of one that `may_be_absent` is not there, that is reported as
    missing, and the check goes on. One that is `partial` keeps what it did when its time ends: that is
    missing too, and no failure. `seconds` is what it may take where time is short. Its output goes to the
    log, and to the file `output`.
    """

    name: str
    command: tuple[str, ...]
    optional: bool = False
    may_be_absent: bool = False
    partial: bool = False
    expected: int = 0
    seconds: float = 60.0
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    output: Path | None = None


@dataclass
class Outcome:
    """What came out so far. `lines` say what was done, for the page; the others what was not."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[str]:
        """What goes on the page."""
        return [*self.lines, *(f"missing: {line}" for line in self.missing)]


class Budget:
    """Seconds for all steps together, from now on; None: as long as they take."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def limit_of(self, step: Step) -> float | None:
        """Seconds that the step may take; 0 when none are left, None without a limit."""
        if self._end is None:
            return None
        left = self._end - self._clock()
        return min(step.seconds, left) if left >= LEAST_SECONDS else 0.0


@dataclass(frozen=True)
class Result:
    """How a command ended: `status` is None when there is no such program, `stopped` when its time ended."""

    status: int | None
    text: str = ""
    stopped: bool = False

    @property
    def last_line(self) -> str:
        filled = [line.strip() for line in self.text.splitlines() if line.strip()]
        return filled[-1].strip("= ") if filled else ""


def run_plan(steps: Sequence[Step], outcome: Outcome, logs: Path, budget: Budget | None = None) -> bool:
    """Run the steps up to the first that fails; False when one did."""
    return all(run_step(step, outcome, logs, budget or Budget(None)) for step in steps)


def run_step(step: Step, outcome: Outcome, logs: Path, budget: Budget) -> bool:
    """Run it, its output on the terminal and in the log; False when the rest of the plan depends on it."""
    limit = budget.limit_of(step)
    if limit == 0.0:
        outcome.missing.append(f"{step.name}: not run, no time was left")
        return True
    print(f"== {step.name}: {' '.join(step.command)}", flush=True)
    result = run_command(step, limit, logs / LOG_NAME)
    outcome.missing += [f"{step.name}: {line}" for line in find_skips(result.text)]
    if result.status == step.expected and not result.stopped:
        outcome.lines.append(f"{step.name}: {result.last_line or 'done'}")
        return True
    if result.status is None:
        reason = "no such program"
    elif result.stopped:
        reason = f"stopped after {limit:.0f} s"
    else:
        reason = f"exit status {result.status}, expected {step.expected}"
    told = f"{step.name}: {reason}, see {LOG_NAME}" + f": {result.last_line}" * bool(result.last_line)
    absent = result.status is None and step.may_be_absent
    is_missing = step.optional or absent or (result.stopped and step.partial)
    (outcome.missing if is_missing else outcome.failed).append(told)
    outcome.lines.append(f"{step.name}: {'missing' if is_missing else 'FAILED'}")
    return is_missing


def run_command(step: Step, limit: float | None, log: Path) -> Result:
    """Run it for at most `limit` seconds; its children end with it."""
    try:
        process = subprocess.Popen(
            step.command,
            cwd=step.folder,
            env={**os.environ, **step.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        return Result(None)
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop) if limit is not None else None
    if timer:
        timer.start()
    assert process.stdout is not None
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"== {step.name}: {' '.join(step.command)}\n")
        text = _copy_lines(process.stdout, stream)
    status = process.wait()
    if timer:
        timer.cancel()
    if step.output is not None:
        step.output.write_text(text, encoding="utf-8")
    return Result(status, text, stopped.is_set())


def _copy_lines(source: TextIO, log: TextIO) -> str:
    lines = []
    for line in source:
        print(line, end="", flush=True)
        log.write(line)
        lines.append(line)
    return "".join(lines)


def find_skips(text: str) -> list[str]:
    """pytest's skipped tests with their reasons, each reason once."""
    reasons = re.findall(r"^SKIPPED \[\d+\] [^:]+(?::\d+)?: (.+)$", text, re.MULTILINE)
    return [f"skipped: {reason}" for reason in dict.fromkeys(reasons)]
