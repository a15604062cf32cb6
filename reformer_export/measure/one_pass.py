"""One forward pass in a process of its own; `memory.measure_pass` runs it and reads its line of JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure import memory
from reformer_export.measure.contenders import Setup, open_contender, random_inputs
from reformer_export.measure.memory import Memory
from reformer_export.measure.timing import time_once


def run_once(setup: Setup, batch: int, length: int) -> Memory | None:
    """Load, run once, and say how much memory that took; None where the system does not tell."""
    inputs = random_inputs(read_manifest(Path(setup.out)), batch, length)
    before = memory.gpu_bytes() if setup.device == "cuda" else 0
    run = open_contender(setup)
    find_peak, measured = memory.find_gauge(setup.device)
    loaded = memory.resident_bytes() if measured == memory.OF_THE_PASS else find_peak()
    seconds = time_once(lambda: run(inputs))
    peak = find_peak()
    if before is None or loaded is None or peak is None:
        return None
    return Memory(loaded - before, peak - before, measured, seconds)


def main(job: str) -> None:
    """`job`: JSON of a Setup, a batch and a length. Prints a Memory as one line of JSON, or null."""
    print(msgspec.json.encode(run_once(*msgspec.json.decode(job, type=tuple[Setup, int, int]))).decode())


if __name__ == "__main__":
    main(sys.argv[1])
