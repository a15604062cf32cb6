"""A process that forks with an open model: its child has the model, but neither its threads nor its GPU.

A run there may wait for a thread that does not exist, and a session that ends there joins one (seen: a child
that crashed at its exit). So the child refuses to run the model, and leaves it alone for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import weakref
from abc import ABC, abstractmethod
from typing import Final

from reformer_export.errors import InputError


class Forkable(ABC):
    """What a forked child must let go of."""

    @abstractmethod
    def abandon(self) -> None:
        """Called in a forked child: from here on nothing of it may run there, its end included."""


_OPEN: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()


def watch_forks(model: Forkable) -> None:
    """Let `model` be abandoned in every child that this process forks."""
    _OPEN.add(model)
    _watch()


@functools.cache
def _watch() -> None:
    if hasattr(os, "register_at_fork"):  # Windows starts every process anew
        os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    for model in list(_OPEN):
        # Without an attribute another thread was still opening it, which nobody here will have.
        with contextlib.suppress(AttributeError):
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
