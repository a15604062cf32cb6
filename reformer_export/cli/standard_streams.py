"""Standard output and error as a command needs them: a pipe that ends, a full disk, a closed stream."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

from reformer_export.errors import OutputError, reason_of

EXIT_PIPE_ENDED: Final = 128 + 13
"""What a shell reports of a program that SIGPIPE ended; Python gets an error in place of the signal."""

_STANDARD_DESCRIPTORS: Final = (0, 1, 2)


class _GuardedWriter(io.RawIOBase):
    """The bytes' way to a standard stream; what the system refuses once, it is not asked for again.

    The first refusal ends the program: silently with `EXIT_PIPE_ENDED` when nobody reads a pipe any more,
    with an OutputError otherwise. Of a stream for messages (`is_vital` false) refusals are let go.
    """

    def __init__(self, descriptor: int, is_vital: bool) -> None:
        self._descriptor = descriptor
        self.is_vital = is_vital
        self._is_lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write some of the bytes `data`; how many."""
        while not self._is_lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # whoever shares the pipe has made it so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._is_lost = True
                if not self.is_vital:
                    break
                if isinstance(error, BrokenPipeError):
                    raise SystemExit(EXIT_PIPE_ENDED) from None
                fix = "free some space, or redirect it elsewhere (files that were asked for are written)"
                raise OutputError(
                    "standard output", f"'{reason_of(error)}'", "a writable place with room", fix
                ) from error
        return len(data)


@contextmanager
def guard_standard_streams() -> Iterator[None]:
    """While the block runs, no standard stream fails in a way of its own, whatever is at its other end.

    Descriptors that are closed are opened on nothing: else the next file that is opened would get their
    number, and what is meant for the terminal would go into that file.

    Raises:
        OutputError: standard output is closed, so that no result could be shown.
    """
    if sys.platform != "win32":
        _open_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    before = sys.stdout, sys.stderr
    try:
        if sys.stdout is None:
            sys.stdout = io.StringIO()
            fix = "redirect it, to /dev/null to let the results go"
            raise OutputError("standard output", "a closed one", "one to show results on", fix)
        sys.stdout = _guard(sys.stdout, is_vital=True)
        sys.stderr = _guard(sys.stderr, is_vital=False)
        yield
    finally:
        _let_go(sys.stdout)
        _let_go(sys.stderr)
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _guard(stream: TextIO, *, is_vital: bool) -> TextIO:
    """`stream` behind a guard; itself where it is no plain stream of the system's (a test's, a console's)."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer between
    if type(stream) is not io.TextIOWrapper or not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_GuardedWriter(raw.fileno(), is_vital)),
        encoding=stream.encoding,
        # A model's text and a file's name can hold what the terminal's encoding lacks.
        errors="replace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _let_go(stream: TextIO) -> None:
    """Write what a guarded stream still holds, wherever that gets."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if isinstance(raw, _GuardedWriter):
        raw.is_vital = False
        with suppress(ValueError):
            stream.flush()
