"""What this machine has for running engines: plain facts, which the checks before loading compare."""

from __future__ import annotations

from dataclasses import dataclass

from reformer_export.libraries.tensorrt import TensorRTLibrary


@dataclass(frozen=True)
class Gpu:
    """A GPU: `compute_capability` such as "8.9"; all its memory in bytes."""

    name: str
    compute_capability: str
    memory_bytes: int

    @property
    def capability(self) -> tuple[int, int]:
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    def __str__(self) -> str:
        gibibytes = self.memory_bytes / 2**30
        return f"{self.name} (compute capability {self.compute_capability}, {gibibytes:.1f} GiB)"


@dataclass(frozen=True)
class Machine:
    """A runtime's version, the GPU and the plugin library; where one of the latter is None, its `_problem`
    says why, as a whole message."""

    runtime_version: str
    gpu: Gpu | None
    library: TensorRTLibrary | None
    gpu_problem: str = ""
    library_problem: str = ""
