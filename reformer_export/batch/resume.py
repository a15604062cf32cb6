"""A .jsonl file that grows beside its place and survives an interruption: the next run goes on with it.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from reformer_export.artifact.files import JsonFile, output_error
from reformer_export.batch.batching import Totals
from reformer_export.batch.outputs import JsonLinesWriter, Output, ResultWriter
from reformer_export.batch.sequences import START_AGAIN, Consumed, Count, Source
from reformer_export.errors import InputError, OutputError

STATE_SECONDS: Final = 1.0
"""How much work a kill can cost, beyond a window."""

STATE_FILE: Final = JsonFile("an interrupted run's state", START_AGAIN, error=InputError)

Identity = dict[str, str | int | bool | None]
Say = Callable[[str], object]


@dataclass(frozen=True)
class _State:
    """What OUT.jsonl.partial.json says: the first `size` bytes are what was made of what was `consumed`."""

    identity: Identity
    consumed: Consumed
    size: Count
    totals: Totals
    version: Literal[1] = 1


@contextmanager
def open_resumable_file(
    output: Output, source: Source, identity: Identity, say: Say
) -> Iterator[ResultWriter]:
    """A writer for the .jsonl file of `output`, which appears when the block ends well; else the lines are
    kept.

    Args:
        output: of which `resume` says to go on with an interrupted run, if there is one; else what one has
            left is removed.
        source: the input; it is moved to where the interrupted run stopped, if one did.
        identity: what decides the results, besides the input; an interrupted run must have had the same.
        say: called with a sentence for people.
    """
    try:
        with output.partial.open("ab") as stream:
            lock_stream(stream, output.partial)
            writer = _ResumableWriter(stream, output.partial, identity)
            if output.resume and output.partial.stat().st_size:
                writer.restore(source)
                say(f"Goes on after the first {source.consumed.lines} lines.")
            stream.truncate(writer.size)
            try:
                writer.end_window(source.consumed, writer.begun)
                yield writer
                stream.flush()
            except BaseException:
                writer.keep(say)
                raise
        os.replace(output.partial, output.path)
        writer.remove_state()
    except OSError as error:
        raise output_error(output.path, error) from error


class _ResumableWriter(JsonLinesWriter):
    """Counts the lines on disk in the state, about once in `STATE_SECONDS`."""

    def __init__(self, stream: BinaryIO, partial: Path, identity: Identity) -> None:
        super().__init__(stream)
        self._partial = partial
        self._state_path = partial.parent / f"{partial.name}.json"
        # Always the same name, so that kills leave one at most.
        self._new_state_path = self._state_path.with_suffix(".new")
        self._identity = identity
        self._state: _State | None = None
        self._saved_lines = 0
        self._saved = -math.inf

    def restore(self, source: Source) -> None:
        """Bring the source and this writer to where the interrupted run was."""
        state = self._read_state()
        for name in dict.fromkeys((*self._identity, *state.identity)):
            value = self._identity.get(name)
            if state.identity.get(name) != value:
                expected = f"{state.identity.get(name)!r} as in the run that left {self._partial}"
                raise InputError("resume", f"{name} {value!r}", expected, f"give the same, or {START_AGAIN}")
        if self._partial.stat().st_size < state.size:
            raise _broken(self._partial)
        source.skip(state.consumed)
        self.size, self.begun = state.size, state.totals

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        self._stream.flush()  # a full disk shows here, with the windows before on it (3.14 holds 128 KiB)
        self._state = _State(self._identity, consumed, self.size, totals)
        if time.monotonic() - self._saved >= STATE_SECONDS:
            self._save(self._state)

    def keep(self, say: Say) -> None:
        """Leave whole windows behind and say so; nothing, where there is none."""
        with suppress(OSError):  # a full disk: what a second ago was counted holds
            self._stream.flush()
        with suppress(OSError):
            if self._state is not None and os.fstat(self._stream.fileno()).st_size >= self._state.size:
                self._save(self._state)
        if self._saved_lines:
            say(
                f"Kept what was made of the first {self._saved_lines} lines in {self._partial}: the same "
                "command with `resume=True` goes on after them."
            )
            return
        self._partial.unlink(missing_ok=True)
        self.remove_state()

    def remove_state(self) -> None:
        """Remove what counts the lines."""
        self._state_path.unlink(missing_ok=True)
        self._new_state_path.unlink(missing_ok=True)

    def _save(self, state: _State) -> None:
        self._new_state_path.write_text(json.dumps(dataclasses.asdict(state)) + "\n")
        os.replace(self._new_state_path, self._state_path)
        self._saved = time.monotonic()
        self._saved_lines = state.consumed.lines

    def _read_state(self) -> _State:
        try:
            values = STATE_FILE.read(self._state_path)
            state = STATE_FILE.convert(self._state_path, values, _State)
        except InputError as error:
            raise _broken(self._state_path) from error
        if dataclasses.asdict(state) != values:  # names that it does not have
            raise _broken(self._state_path)
        return state


def _broken(path: Path) -> InputError:
    return InputError("resume", f"{path} missing or damaged", "what an interrupted run leaves", START_AGAIN)


def lock_stream(stream: BinaryIO, partial: Path) -> None:
    """Refuse to write where another process does; where the system has no such locks, hope."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        got, fix = f"{partial}, which another process is writing", "wait for it, or choose another output"
        raise OutputError("output", got, "one at a time", fix) from error
