"""A process that forks with an open model: its child has the model, but neither its threads nor its GPU.

A run there may wait for a thread that does not exist, and a session that ends there joins one (seen: a child
that crashed at its exit). So the child refuses to run the model, and leaves it alone for good.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from reformer_export.errors import InputError


class Forkable(ABC):
    """What a forked child must let go of."""

    @abstractmethod
    def abandon(self) -> None:
        """Called in a forked child: from here on nothing of it may run there, its end included."""


_OPEN: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_ENDLESS: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def watch_forks(model: Forkable) -> None:
    """Let `model`, which is whole, be abandoned in every child that this process forks."""
    _OPEN.add(model)
    _watch()


def keep_in_children(thing: Any) -> None:
    """Let `thing` never end in a child that this process forks, whoever holds it there: a model, or what is
    left of one that could not be opened."""
    _ENDLESS.add(thing)
    _watch()


def release_with(owner: object, release: Callable[[], object]) -> weakref.finalize[..., Any]:
    """Call `release` once: when the result is called, when `owner` goes or when the program ends. In a forked
    child that does nothing, for good."""
    return weakref.finalize(owner, _release_in, os.getpid(), release)


def _release_in(process: int, release: Callable[[], object]) -> None:
    if os.getpid() == process:
        release()
    else:
        keep_for_good(release)


@functools.cache
def _watch() -> None:
    if hasattr(os, "register_at_fork"):  # Windows starts every process anew
        os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    for thing in list(_ENDLESS):
        keep_for_good(thing)
    for model in list(_OPEN):
        model.abandon()


def keep_for_good(thing: object) -> None:
    """Never end `thing`, whoever lets go of it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def refuse_after_fork(folder: object) -> InputError:
    """The refusal to run the model of the artifact in `folder` in a forked child."""
    return InputError(
        folder,
        "a run in a process that was forked after the model was opened",
        "one in the process that opened it: threads and GPU memory do not go along",
        'load it after the fork, or start processes with the method "spawn"',
    )
