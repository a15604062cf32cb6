"""What is compared: each contender is opened once, then runs one forward pass per call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import reformer_export
from benchmarks.models import BenchmarkModel
from reformer_export.native import NativeMode

Run = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""int64 [B, L] token ids -> float32 logits [B, L or 1, vocabulary]."""


def open_portable(model: BenchmarkModel, threads: int) -> Run:
    """ONNX Runtime on the function bodies in the file; imports no torch."""
    return _open_artifact(model, threads, "off")


def open_native(model: BenchmarkModel, threads: int) -> Run:
    """The same file with the native operator library registered."""
    return _open_artifact(model, threads, "on")


def open_eager(model: BenchmarkModel, threads: int) -> Run:
    """Unpatched transformers eager at its fastest: inference mode, no cache, and no attention mask (it would
    be all ones; without one, eager skips its gathers)."""
    import torch

    from reformer_export.parity.eager import EagerReformer, silence_transformers

    torch.set_num_threads(threads)
    silence_transformers()
    eager: Any = EagerReformer(model.checkpoint, model.spec).model

    def run(input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = eager(torch.from_numpy(input_ids), use_cache=False).logits.numpy()
        return logits

    return run


def _open_artifact(model: BenchmarkModel, threads: int, native: NativeMode) -> Run:
    runtime = reformer_export.load(model.artifact, provider="cpu", threads=threads, native=native)
    return lambda input_ids: runtime.run(input_ids)["logits"]


CONTENDERS: Final[dict[str, Callable[[BenchmarkModel, int], Run]]] = {
    "portable": open_portable,
    "native": open_native,
    "eager": open_eager,
}
