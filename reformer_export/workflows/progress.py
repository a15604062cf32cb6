"""How a workflow tells how far it is; a caller that is no terminal need not listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Say = Callable[[str], None]
"""Takes a line for people."""

Advance = Callable[[int], None]
"""Takes how many things were done since the last call."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Of what is done, and how many of them: a block in which they are."""


def say_nothing(_line: str) -> None:
    """Let the line go."""


@contextmanager
def show_no_progress(_what: str, _total: int) -> Iterator[Advance]:
    """Let what is done go by."""
    yield lambda count: None
