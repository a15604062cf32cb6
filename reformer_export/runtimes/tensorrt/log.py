"""TensorRT's log: its errors reach the user inside exceptions, not as lines of their own."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

KEPT_MESSAGES: Final = 64
SHOWN_ERRORS: Final = 3
MAX_CHARACTERS: Final = 600


class MessageStore:
    """The last errors and warnings, with the number of those that ever came. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[tuple[int, bool, str]] = deque(maxlen=KEPT_MESSAGES)
        self._count = 0

    def add(self, is_error: bool, message: str) -> None:
        with self._lock:
            self._count += 1
            self._messages.append((self._count, is_error, message))

    def mark(self) -> int:
        """A point in time, for the two below."""
        with self._lock:
            return self._count

    def errors_since(self, mark: int) -> str:
        """The first errors after `mark` in one line; later ones follow from them. A sentence if there are
        none."""
        found = self._since(mark, is_error=True)[:SHOWN_ERRORS]
        return "; ".join(found)[:MAX_CHARACTERS] or "no reason in its log"

    def warnings_since(self, mark: int) -> list[str]:
        """The warnings after `mark`, each once."""
        return list(dict.fromkeys(self._since(mark, is_error=False)))

    def _since(self, mark: int, is_error: bool) -> list[str]:
        with self._lock:
            return [text for count, error, text in self._messages if count > mark and error == is_error]


def make_log(trt: Any, on_message: Callable[[str, str], None]) -> Any:
    """An ILogger of the module `trt` that passes on a severity ("internal error", "error", "warning") and the
    message in one line, from whatever thread TensorRT is in."""
    levels = trt.ILogger.Severity
    names = {levels.INTERNAL_ERROR: "internal error", levels.ERROR: "error", levels.WARNING: "warning"}

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            if severity in names:
                on_message(names[severity], " ".join(msg.split()))

    return Log()


@functools.cache
def open_log(trt: Any) -> Any:
    """The one log of the module `trt` (`tensorrt` or `tensorrt_rtx`): an ILogger with a `store`.

    One for the process, because TensorRT keeps a pointer to the first log it is given and writes some
    messages of all runtimes there.
    """
    store = MessageStore()
    log = make_log(trt, lambda severity, text: store.add(severity != "warning", text))
    log.store = store
    return log
