"""The GPU that a session measures on, and what bounds it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import click
import torch

from benchmarks.gpu_cards import GPU, Ceilings, card_from_ceilings
from benchmarks.gpu_timing import measure_ceilings
from benchmarks.report import describe_machine

NO_GPU: Final = 2
"""Exit status."""


@dataclass
class Deadline:
    """Seconds from now after which no further entry is begun; None for no end."""

    seconds: float | None
    begun: float = field(default_factory=time.monotonic)

    @property
    def passed(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.begun > self.seconds


def describe_gpu() -> dict[str, Any]:
    """The machine, and the first GPU."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    return {
        **describe_machine(),
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def measure_card(machine: dict[str, Any]) -> tuple[GPU, Ceilings]:
    """The card with the rates that it reaches in this session."""
    ceilings = measure_ceilings()
    return card_from_ceilings(machine["gpu"], machine["memory_bytes"], ceilings), ceilings


def ceilings_entry(ceilings: Ceilings) -> dict[str, Any]:
    return {"ceilings": dataclasses.asdict(ceilings)}


def require_gpu(program: str) -> None:
    """Leave with status 2 where torch has no GPU."""
    if not torch.cuda.is_available():
        refuse(program)


def refuse(program: str) -> NoReturn:
    click.echo(f"{program}: got no GPU that torch can use, expected an NVIDIA GPU; nothing written", err=True)
    sys.exit(NO_GPU)
