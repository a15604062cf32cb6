"""What is done and how long it takes, for whoever listens: Python's logger "reformer_export", level INFO.

Nothing is shown unless a program asks `logging` for it, as the command line does with --verbose.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LOGGER: Final = logging.getLogger("reformer_export")


@contextmanager
def log_phase(what: str) -> Iterator[None]:
    """Log how long the block took, if it ended well."""
    begun = time.perf_counter()
    yield
    LOGGER.info("%s: %.3f s", what, time.perf_counter() - begun)


def log_fact(what: str, value: object) -> None:
    """Log what is used."""
    LOGGER.info("%s: %s", what, value)
