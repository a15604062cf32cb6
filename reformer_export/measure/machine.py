"""Which machine, how much of it and when: numbers say little without."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from reformer_export.errors import ReformerExportError
from reformer_export.libraries.gpus import find_gpus
from reformer_export.measure.contenders import Setup

BUSY: Final = 1.5
"""Load average a core, from which on what was measured is of a machine that others use."""
_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class MeasuredOn:
    """`cpu` is the model's name, `cores` how many this process may use, `threads` those of a
    contender (None: as many as its library takes by itself), `gpus` the visible ones where a contender used
    one, `date` UTC as in 2026-11-26 09:30."""

    cpu: str
    cores: int
    threads: int | None
    date: str
    gpus: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line."""
        threads = "threads as each library chooses" if self.threads is None else f"threads: {self.threads}"
        gpus = "".join(f"{gpu}; " for gpu in self.gpus)
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{gpus}{self.cpu}, {cores}, {threads}; {self.date} UTC"


def describe_machine(setups: Sequence[Setup]) -> MeasuredOn:
    """This machine, now, for the contenders `setups`."""
    gpus: tuple[str, ...] = ()
    if any(setup.device == "cuda" for setup in setups):
        try:
            gpus = tuple(map(str, find_gpus()))
        except ReformerExportError:
            gpus = ("a GPU that its driver does not name",)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    return MeasuredOn(cpu_name(), count_cores(), setups[0].options.threads, now, gpus)


def count_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Of the last minute, processes that ran or waited for a core; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """The CPU's model, as the system calls it."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
