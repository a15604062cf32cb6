"""What a user asks of an engine, and what each runtime cannot give."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reformer_export.artifact.engine_record import EngineFlags, EngineProfile, EngineRuntime
from reformer_export.errors import InputError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.runtimes.field_types import check_field_types

MAX_BUILDER_LEVEL: Final = 5

_SIZE: Final = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


_REFUSED: Final[dict[str, tuple[EngineRuntime, str, str]]] = {
    "compute_capabilities": (
        "tensorrt",
        "TensorRT builds for the GPU of the building machine",
        'build there, or use `hardware_compatible` or `runtime="tensorrt-rtx"`',
    ),
    "hardware_compatible": (
        "tensorrt-rtx",
        "TensorRT-RTX takes the list of GPUs instead",
        "give `compute_capabilities` once for each",
    ),
    "version_compatible": (
        "tensorrt-rtx",
        "TensorRT-RTX has no lean runtime, which such an engine carries",
        'build one engine a version, or use `runtime="tensorrt"`',
    ),
    "timing_cache": ("tensorrt-rtx", "TensorRT-RTX times no kernels while it builds", "leave it out"),
}
"""Options that mean nothing to a runtime: which, why, and how to mend it."""


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    No `profiles`: the default one. `compute_capabilities` are texts such as "8.9"; none: the GPU of this
    machine. `builder_level` 0 (quick) to 5 (thorough), `workspace` bytes of GPU memory for scratch space,
    None: TensorRT's own. `timing_cache` None: OUT/engines/timing.cache. `tf32` of the flags lets float32
    products round to TF32, which changes hashes. `report_layers` writes what the inspector says.
    `num_hashes`: the rounds that are built in, of an artifact whose runs choose them; None for all others.
    `decode`: of decode.onnx, which continues sequences, and not of model.onnx; `capacity` is then the most
    tokens that a sequence's caches may have room for, None for the longest by default.
    """

    runtime: EngineRuntime
    name: str = ""
    profiles: tuple[EngineProfile, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    builder_level: int | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    flags: EngineFlags = field(default_factory=EngineFlags)
    embed_plugin: bool = False
    report_layers: bool = False
    overwrite: bool = False
    num_hashes: int | None = None
    decode: bool = False
    capacity: int | None = None

    def __post_init__(self) -> None:
        check_field_types(self, but=("num_hashes",))
        if self.capacity is not None and not self.decode:
            got, fix = f"{self.capacity} without `decode`", "use `decode=True`, or leave it out"
            raise InputError("capacity", got, "it with an engine that has caches", fix)
        if self.builder_level is not None and not 0 <= self.builder_level <= MAX_BUILDER_LEVEL:
            raise InputError("builder_level", self.builder_level, f"0 to {MAX_BUILDER_LEVEL}", "choose one")
        for text in self.compute_capabilities:
            ComputeCapability.parse(text, "compute_capabilities")
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise InputError("compute_capabilities", " ".join(self.compute_capabilities), "each once")
        _check_runtime_has(self)

    @property
    def engine_name(self) -> str:
        """`name`, or the runtime's, with -decode where it decodes."""
        return self.name or self.runtime + ("-decode" if self.decode else "")


def _check_runtime_has(options: EngineOptions) -> None:
    """InputError for an option that means nothing to the chosen runtime."""
    for name, (runtime, reason, fix) in _REFUSED.items():
        if runtime == options.runtime and getattr(options, name, getattr(options.flags, name, None)):
            raise InputError(name, f'it with `runtime="{runtime}"`', f"none, because {reason}", fix)


def size_from_text(text: str) -> int:
    """Bytes from a number with an optional unit, powers of 1,024: 512M, 4G, 4GiB."""
    found = _SIZE.fullmatch(text.strip())
    size = int(found.group(1)) * _UNITS[found.group(2).upper()] if found else 0
    if not 1 <= size < 2**62:
        raise InputError("workspace", f"{text!r:.40}", "a size", "write e.g. 512M or 4G")
    return size
