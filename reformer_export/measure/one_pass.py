"""One forward pass in a process of its own; `memory.measure_pass` runs it and reads its line of JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure.contenders import Setup, open_contender
from reformer_export.measure.memory import (
    OF_THE_GPU,
    OF_THE_PASS,
    OF_THE_PROCESS,
    Memory,
    gpu_bytes,
    process_peak_bytes,
    reset_peak,
    resident_bytes,
)


def random_ids(vocab_size: int, batch: int, length: int) -> NDArray[np.int64]:
    """Seeded token ids int64 [batch, length]."""
    return np.random.default_rng(0).integers(0, vocab_size, (batch, length), dtype=np.int64)


def run_once(setup: Setup, batch: int, length: int) -> Memory | None:
    """Load, run once, and say how much memory that took; None where the system does not tell."""
    ids = random_ids(read_manifest(Path(setup.out)).spec.vocab_size, batch, length)
    if setup.device == "cuda":
        return _run_on_gpu(setup, ids)
    run = open_contender(setup)
    if reset_peak():
        loaded = resident_bytes("VmRSS")
        run(ids)
        return Memory(loaded, resident_bytes("VmHWM"), OF_THE_PASS)
    peak_of_loading = process_peak_bytes()
    run(ids)
    peak = process_peak_bytes()
    if peak is None or peak_of_loading is None:
        return None
    return Memory(peak_of_loading, peak, OF_THE_PROCESS)


def _run_on_gpu(setup: Setup, ids: NDArray[np.int64]) -> Memory | None:
    before = gpu_bytes()
    run = open_contender(setup)
    loaded = gpu_bytes()
    run(ids)
    after = gpu_bytes()
    if before is None or loaded is None or after is None:
        return None
    return Memory(loaded - before, after - before, OF_THE_GPU)


def main(job: str) -> None:
    """`job`: JSON of a Setup, a batch and a length. Prints a Memory as one line of JSON, or null."""
    values = json.loads(job)
    memory = run_once(Setup(**values["setup"]), values["batch"], values["length"])
    print(json.dumps(None if memory is None else dataclasses.asdict(memory)))


if __name__ == "__main__":
    main(sys.argv[1])
