"""What is compared: each contender is opened once, then runs one forward pass per call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import reformer_export
from benchmarks.models import BenchmarkModel
from reformer_export.libraries.operators import NativeMode
from reformer_export.measure.contenders import Setup, open_contender

Run = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""int64 [B, L] token ids -> float32 logits [B, L or 1, vocabulary]."""


def open_portable(model: BenchmarkModel, threads: int) -> Run:
    """ONNX Runtime on the function bodies in the file; imports no torch."""
    return _open_artifact(model, threads, "off")


def open_native(model: BenchmarkModel, threads: int) -> Run:
    """The same file with the native operator library registered."""
    return _open_artifact(model, threads, "on")


def open_eager(model: BenchmarkModel, threads: int) -> Run:
    """Unpatched transformers eager at its fastest, as `reformer-export bench` measures it."""
    setup = Setup("eager", str(model.artifact), {}, threads=threads, checkpoint=str(model.checkpoint))
    run: Any = open_contender(setup)
    return lambda input_ids: run(input_ids)[0]


def _open_artifact(model: BenchmarkModel, threads: int, native: NativeMode) -> Run:
    runtime = reformer_export.load(model.artifact, provider="cpu", threads=threads, native=native)
    return lambda input_ids: runtime.run(input_ids)["logits"]


CONTENDERS: Final[dict[str, Callable[[BenchmarkModel, int], Run]]] = {
    "portable": open_portable,
    "native": open_native,
    "eager": open_eager,
}
