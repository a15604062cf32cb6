"""One forward pass in a process of its own, to measure its peak memory.

Run by `measure_pass` as `python -m benchmarks.one_pass`; prints one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders import CONTENDERS
from benchmarks.models import BenchmarkModel, random_inputs
from reformer_export.measure.memory import RESET_PEAK, resident_bytes
from reformer_export.measure.timing import time_once

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Pass:
    """One forward pass: its seconds, bytes resident once the model was loaded, and at the pass's peak."""

    seconds: float
    loaded_bytes: int
    peak_bytes: int

    @property
    def extra_bytes(self) -> int:
        return self.peak_bytes - self.loaded_bytes


def measure_pass(contender: str, model: BenchmarkModel, length: int, threads: int) -> Pass:
    """Run `contender` (a name of CONTENDERS) once over `length` tokens in a fresh process."""
    arguments = [contender, model.name, str(model.checkpoint), str(model.artifact), str(length), str(threads)]
    command = [sys.executable, "-m", "benchmarks.one_pass", *arguments]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        raise RuntimeError(
            f"{contender} on {model.name} at {length} tokens: got exit status {process.returncode}, expected "
            "0 (-9 is the kernel's out-of-memory killer); try fewer tokens"
        )
    return Pass(**json.loads(process.stdout.splitlines()[-1]))


def main(contender: str, name: str, checkpoint: str, artifact: str, length: str, threads: str) -> None:
    """Load, note the resident size, run once, print a Pass."""
    model = BenchmarkModel(name, Path(checkpoint), Path(artifact))
    run = CONTENDERS[contender](model, int(threads))
    input_ids = random_inputs(model.spec.vocab_size, int(length))
    Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    loaded = resident_bytes("VmRSS")
    seconds = time_once(lambda: run(input_ids))
    print(json.dumps(dataclasses.asdict(Pass(seconds, loaded, resident_bytes("VmHWM")))))


if __name__ == "__main__":
    main(*sys.argv[1:])
