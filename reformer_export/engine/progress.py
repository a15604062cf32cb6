"""How far a build is, from the nested phases that TensorRT's IProgressMonitor reports."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`fraction` 0 to 1 of the whole build; `phase` is what is being done, `done` of its `total` steps."""

    fraction: float
    phase: str
    done: int
    total: int


@dataclass
class _Phase:
    parent: str | None
    total: int
    done: int = 0


class PhaseTree:
    """The phases that are going on. TensorRT may report from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, total: int) -> Progress:
        with self._lock:
            self._phases[name] = _Phase(parent, max(total, 1))
            return self._progress(name)

    def complete_step(self, name: str, step: int) -> Progress:
        """Step number `step`, from 0, of the phase `name` is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = max(self._phases[name].done, step + 1)
            return self._progress(name)

    def finish(self, name: str) -> Progress:
        with self._lock:
            progress = self._progress(name)
            self._phases.pop(name, None)
            return progress

    def _progress(self, name: str) -> Progress:
        roots = [key for key, phase in self._phases.items() if phase.parent not in self._phases]
        known = sum(self._share(root, 0) for root in roots) / len(roots) if roots else self._fraction
        self._fraction = max(self._fraction, known)  # never backwards: TensorRT repeats phases
        phase = self._phases.get(name, _Phase(None, 1))
        return Progress(self._fraction, name, min(phase.done, phase.total), phase.total)

    def _share(self, name: str, depth: int) -> float:
        """0 to 1: the phase's steps, with the share of the steps that are going on."""
        phase = self._phases[name]
        children = [key for key, other in self._phases.items() if other.parent == name and key != name]
        going_on = sum(self._share(key, depth + 1) for key in children) if depth < len(self._phases) else 0.0
        return min(1.0, (phase.done + min(1.0, going_on)) / phase.total)
