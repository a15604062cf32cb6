"""A .jsonl file that grows beside its place and survives an interruption: `--resume` goes on with it.

OUT.jsonl.partial holds the lines so far, OUT.jsonl.partial.json says after how much of the input they were
written and by what. The lines are on disk before the state that counts them, and the state is replaced as a
whole, so that lines behind the state's count are the only ones that a kill can tear; they are cut off.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from reformer_export.batch.batching import Totals
from reformer_export.batch.outputs import JsonLinesWriter, ResultWriter, refuse_unwritable
from reformer_export.batch.sequences import Consumed, Source
from reformer_export.errors import InputError, OutputError

STATE_VERSION: Final = 1
STATE_SECONDS: Final = 1.0
"""How much work a kill can cost, beyond a window."""

MAX_STATE_BYTES: Final = 2**20

Identity = dict[str, str | int | bool | None]


def check_partial(path: Path, *, resume: bool, restart: bool) -> None:
    """Refuse, before any work, to begin where an interrupted run has left lines, unless told what to do."""
    partial, _ = _places(path)
    if resume and restart:
        raise InputError("--resume: got --restart too, expected one of them; choose")
    if partial.exists() and not (resume or restart):
        raise OutputError(
            f"--output: got {partial}, which an interrupted run has left, expected none; "
            "go on with --resume, or start again with --restart"
        )


@contextmanager
def open_resumable_file(
    path: Path, source: Source, identity: Identity, totals: Totals, *, resume: bool
) -> Iterator[ResultWriter]:
    """A writer for the .jsonl file `path`, which appears when the block ends well; else the lines are kept.

    Args:
        path: the file.
        source: the input; it is moved to where the interrupted run stopped, if one did.
        identity: what decides the results, besides the input; an interrupted run must have had the same.
        totals: becomes the interrupted run's, if there is one.
        resume: go on with an interrupted run, if there is one; else what one has left is removed.
    """
    partial, state_path = _places(path)
    with refuse_unwritable(path):
        with partial.open("ab") as stream:
            _lock(stream, partial)
            size = 0
            if resume and partial.stat().st_size:
                size = _restore(path, source, identity, totals)
            stream.truncate(size)
            writer = _ResumableWriter(stream, size, state_path, identity)
            try:
                writer.end_window(source.consumed, totals)
                yield writer
                stream.flush()
            except BaseException:
                writer.keep(partial)
                raise
        os.replace(partial, path)
        _remove_state(state_path)


def _places(path: Path) -> tuple[Path, Path]:
    """Where the lines and the state are until the file is whole."""
    return path.parent / f"{path.name}.partial", path.parent / f"{path.name}.partial.json"


@dataclasses.dataclass(frozen=True)
class _State:
    """What OUT.jsonl.partial.json says: the first `size` bytes are what was made of what was `consumed`."""

    identity: dict[str, Any]
    consumed: Consumed
    size: int
    totals: Totals


class _ResumableWriter(JsonLinesWriter):
    """Counts the lines on disk in the state, about once in `STATE_SECONDS`."""

    def __init__(self, stream: BinaryIO, size: int, state_path: Path, identity: Identity) -> None:
        super().__init__(stream)
        self.size = size
        self._state_path = state_path
        self._identity = identity
        self._state: _State | None = None
        self._saved_lines = 0
        self._saved = -math.inf

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        self._state = _State(self._identity, consumed, self.size, dataclasses.replace(totals))
        if time.monotonic() - self._saved >= STATE_SECONDS:
            self._stream.flush()
            self._save(self._state)

    def _save(self, state: _State) -> None:
        new = _next_to(self._state_path)  # always the same, so that kills leave one at most
        new.write_text(json.dumps({"version": STATE_VERSION, **dataclasses.asdict(state)}) + "\n")
        os.replace(new, self._state_path)
        self._saved = time.monotonic()
        self._saved_lines = state.consumed.lines

    def keep(self, partial: Path) -> None:
        """Leave whole windows behind and say so; nothing, where there is none."""
        with suppress(OSError):  # a full disk: what a second ago was counted holds
            self._stream.flush()
        with suppress(OSError):
            if self._state is not None and os.fstat(self._stream.fileno()).st_size >= self._state.size:
                self._save(self._state)
        if self._saved_lines == 0:
            partial.unlink(missing_ok=True)
            _remove_state(self._state_path)
            return
        click.echo(
            f"Kept what was made of the first {self._saved_lines} lines in {partial}: the same command with "
            "--resume goes on after them.",
            err=True,
        )


def _next_to(state_path: Path) -> Path:
    return state_path.with_suffix(".new")


def _remove_state(state_path: Path) -> None:
    state_path.unlink(missing_ok=True)
    _next_to(state_path).unlink(missing_ok=True)


def _restore(path: Path, source: Source, identity: Identity, totals: Totals) -> int:
    """Bring source and totals to where the interrupted run was; the bytes of its whole lines."""
    partial, state_path = _places(path)
    state = _read_state(state_path)
    for name, value in identity.items():
        if state.identity.get(name) != value:
            raise InputError(
                f"--resume: got {name} {value!r}, expected {state.identity.get(name)!r} as in the run that "
                f"left {partial}; give the same, or start again with --restart"
            )
    if partial.stat().st_size < state.size:
        raise _broken(partial)
    source.skip(state.consumed)
    for field in dataclasses.fields(Totals):
        setattr(totals, field.name, getattr(state.totals, field.name))
    click.echo(f"Goes on after the first {state.consumed.lines} lines.", err=True)
    return state.size


def _read_state(state_path: Path) -> _State:
    try:
        if state_path.stat().st_size > MAX_STATE_BYTES:
            raise _broken(state_path)
        values = json.loads(state_path.read_text(encoding="utf-8"))
        if values["version"] != STATE_VERSION or not isinstance(values["identity"], dict):
            raise _broken(state_path)
        consumed = Consumed(**values["consumed"])
        totals = Totals(**values["totals"])
        numbers = (values["size"], consumed.lines, consumed.size, *dataclasses.astuple(totals))
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise _broken(state_path)
        return _State(values["identity"], consumed, values["size"], totals)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(state_path) from error


def _broken(path: Path) -> InputError:
    return InputError(
        f"--resume: got {path} missing or damaged, expected what an interrupted run leaves; "
        "start again with --restart"
    )


def _lock(stream: BinaryIO, partial: Path) -> None:
    """Refuse to write where another process does; where the system has no such locks, hope."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(
            f"--output: got {partial}, which another process is writing, expected one at a time; wait for "
            "it, or choose another output"
        ) from error
