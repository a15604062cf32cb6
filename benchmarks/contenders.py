"""What is compared: the exported file in ONNX Runtime, and eager, as `measure` opens them."""

from __future__ import annotations

from typing import Final

from benchmarks.models import BenchmarkModel
from reformer_export.libraries.operators import NativeMode
from reformer_export.measure import Setup
from reformer_export.runtimes import RuntimeOptions

NATIVE: Final[dict[str, NativeMode]] = {"portable": "off", "native": "on"}
"""On the function bodies in the file, or on the native operator library's kernels."""


def set_up(contender: str, model: BenchmarkModel, threads: int) -> Setup:
    """`contender` is "portable", "native" or "eager"."""
    if contender == "eager":
        options = RuntimeOptions(threads=threads)
        return Setup("eager", str(model.artifact), options, checkpoint=str(model.checkpoint))
    options = RuntimeOptions(provider="cpu", threads=threads, native=NATIVE[contender])
    return Setup("artifact", str(model.artifact), options)
