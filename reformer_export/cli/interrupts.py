"""Ctrl-C while the program's modules are imported, and while Python ends: no command is there to hear it.

Imports little, so that it is there early.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

EXIT_INTERRUPTED: Final = 130
INTERRUPTED: Final = "Interrupted: nothing half-written was left behind."


@contextmanager
def leaving_at_interrupt() -> Iterator[None]:
    """While the block imports modules, Ctrl-C ends the process: as an exception it would come out of any
    library's import, and some of them make an error of their own of it."""
    if not _hears_interrupts():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: leave_interrupted())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_interrupted() -> NoReturn:
    """End the process with the line and the status of an interrupt."""
    with suppress(OSError):
        os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def end_quietly() -> None:
    """From now on Ctrl-C ends the process without a word: all was said."""
    if _hears_interrupts():
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))


def _hears_interrupts() -> bool:
    """Whether Ctrl-C is Python's KeyboardInterrupt: whoever started it may have it ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
