"""Peak memory of one forward pass, each contender in a fresh process: allocators keep what they once took."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from reformer_export.measure.contenders import Device, Setup

_PROC: Final = Path("/proc")
RESET_PEAK: Final = "5"
"""Written to /proc/self/clear_refs, it sets VmHWM back to the resident size (Linux, proc(5))."""

OF_THE_PASS: Final = "peak resident memory of the process during one pass, the loaded model included"
OF_THE_PROCESS: Final = "peak resident memory of the process since it began, loading included"
OF_THE_GPU: Final = (
    "GPU memory in use after one pass less before the process began, CUDA's context and what allocators keep "
    "included; right only while nothing else uses the GPU"
)
NVIDIA_SMI_SECONDS: Final = 30
"""nvidia-smi can hang on a broken driver."""

KILLED: Final = "the system ended it, most likely for want of memory"


@dataclass(frozen=True)
class Memory:
    """Bytes once the model was loaded and at the peak of one pass, the words for what was measured, and that
    pass's seconds, the first one's."""

    loaded_bytes: int
    peak_bytes: int
    measured: str
    seconds: float = 0.0

    @property
    def extra_bytes(self) -> int:
        """What the pass took beyond the loaded model."""
        return self.peak_bytes - self.loaded_bytes


class PassFailedError(Exception):
    """A contender could not do its pass; the text says why, in one line."""


def measure_pass(setup: Setup, batch: int, length: int) -> Memory | None:
    """Run `setup`'s contender once over [batch, length] random ids in a fresh process.

    Returns None where this system does not tell a process's memory.

    Raises:
        PassFailedError: the process ended without a result.
    """
    text = run_alone("reformer_export.measure.one_pass", (setup, batch, length))
    return msgspec.json.decode(text, type=Memory | None)


def run_alone(module: str, job: tuple[object, ...]) -> str:
    """The last line that `module` prints in a fresh process, given `job` as JSON.

    Raises:
        PassFailedError: the process ended without a result.
    """
    command = [sys.executable, "-m", module, msgspec.json.encode(job).decode()]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode < 0:
        raise PassFailedError(KILLED)
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines()
        raise PassFailedError(lines[-1] if lines else f"exit status {process.returncode}")
    return process.stdout.splitlines()[-1]


def find_gauge(device: Device) -> tuple[Callable[[], int | None], str]:
    """What tells the peak of this process's memory, begun anew where the system allows it, and in words what
    that is: bytes, or None where the system does not say. On a GPU, what all processes use there."""
    if device == "cuda":
        return gpu_bytes, OF_THE_GPU
    return (peak_bytes, OF_THE_PASS) if reset_peak() else (process_peak_bytes, OF_THE_PROCESS)


def resident_bytes() -> int:
    """Resident size of this process (Linux)."""
    return bytes_from_proc("self/status", "VmRSS")


def peak_bytes() -> int:
    """Peak resident size of this process since it began, or `reset_peak` (Linux)."""
    return bytes_from_proc("self/status", "VmHWM")


def bytes_from_proc(name: str, field: str) -> int:
    """The value of `field` in /proc/NAME, which holds it in KiB (Linux, proc(5))."""
    for line in (_PROC / name).read_text(encoding="ascii").splitlines():
        found, _, value = line.partition(":")
        if found == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/{name}: got no {field}, expected a Linux kernel that reports it")


def reset_peak() -> bool:
    """Start the peak resident size anew; False where the system does not allow it."""
    try:
        (_PROC / "self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def process_peak_bytes() -> int | None:
    """Peak resident size of this process since it began; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gpu_bytes() -> int | None:
    """Memory in use on all GPUs, as nvidia-smi says; None where it does not."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS
        )
        return sum(int(line) for line in output.stdout.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
