"""Which compiled code runs on which NVIDIA GPU: the one place that decides it.

A library has machine code for the architectures it was compiled for, each 10 * major + minor of a compute
capability (89 for 8.9), and the newest of them as PTX too (plugins/cmake/cuda.cmake).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reformer_export.errors import InputError

Code = Literal["machine code", "PTX"]

_TEXT: Final = re.compile(r"([1-9][0-9]?)\.([0-9])")


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """A GPU's generation, in NVIDIA's numbers; its text is such as "8.9"."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str, what: str = "compute capability") -> ComputeCapability:
        """The one that `text` names; an InputError about `what` when it names none."""
        found = _TEXT.fullmatch(text)
        if found is None:
            fix = "`nvidia-smi --query-gpu=compute_cap --format=csv` names a GPU's"
            raise InputError(what, f"{text!r:.40}", "a version such as 8.9", fix)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def architecture(self) -> int:
        """89 for 8.9."""
        return 10 * self.major + self.minor


LEAST_COMPUTE_CAPABILITY: Final = ComputeCapability(7, 5)
"""The kernels need Turing or newer."""


def parse_architectures(text: str) -> tuple[int, ...]:
    """(80, 90) of "80,90", as the libraries say what they were compiled for."""
    return tuple(int(number) for number in text.split(",") if number)


def code_for(architectures: Sequence[int], capability: ComputeCapability) -> Code | None:
    """Which code of a library compiled for `architectures` a GPU of `capability` runs; None: none of it.

    Machine code runs on its own major version from its own minor version on; the driver compiles PTX for
    whatever came later (CUDA C++ Programming Guide, application compatibility).
    """
    wanted = capability.architecture
    if any(10 * capability.major <= architecture <= wanted for architecture in architectures):
        return "machine code"
    return "PTX" if architectures and max(architectures) < wanted else None
