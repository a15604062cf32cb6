"""What a long command does when something outside of it fails: one line to the user, nothing half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

from reformer_export.errors import ExportError, OutputError, ReformerExportError, one_line, reason_of

EXIT_OF_SIGNAL_BASE: Final = 128
"""A shell reports a program that signal n ended as 128 + n."""


@contextmanager
def refuse_in_one_line(doing: str) -> Iterator[None]:
    """Turn what a library raises in the block into an error of one line; `--debug` shows the whole of it.

    The libraries that trace, write and run a model raise errors of their own kinds when memory or the disk
    is at its end, so that there is no list of them to catch.
    """
    try:
        yield
    except (ReformerExportError, click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except MemoryError as error:
        raise ExportError(
            doing,
            "no more memory",
            "room for it",
            "use a smaller model, batch or length, or a machine with more memory",
        ) from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise OutputError(
            doing,
            f"'{reason_of(error)}'{place}",
            "readable files and a disk with room, TMPDIR's too",
            "free some space or check the permissions",
        ) from error
    except Exception as error:
        raise ExportError(
            doing,
            f"{type(error).__name__}: {one_line(error)}",
            "it to work",
            "`reformer-export --debug ...` shows where, please report it",
        ) from error


@contextmanager
def leave_on_termination(left: str = "nothing half-written was left behind") -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the block, so that it removes what it has half-written; the exit status
    is 128 + the signal's number. `left` tells the user what remains."""
    if threading.current_thread() is not threading.main_thread():  # Python lets only this one set handlers
        yield
        return
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]  # nohup's wish
    before = {number: signal.signal(number, _unwind) for number in heard}
    try:
        yield
    except _Terminated as end:  # told here: where the signal fell, the stream may be in the middle of a line
        click.echo(f"Terminated: {left}.", err=True)
        raise SystemExit(end.code) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminated(SystemExit):
    """A signal that was heard; its code is the exit status."""


def _unwind(number: int, _frame: FrameType | None) -> None:
    raise _Terminated(EXIT_OF_SIGNAL_BASE + number)


@contextmanager
def end_by_signal(left: str) -> Iterator[None]:
    """Leave with 128 + the signal's number, saying what is `left`, on SIGTERM, SIGHUP and Ctrl-C."""
    with leave_on_termination(left):
        try:
            yield
        except KeyboardInterrupt:
            click.echo(f"Interrupted: {left}.", err=True)
            raise SystemExit(EXIT_OF_SIGNAL_BASE + signal.SIGINT) from None
