"""What is compared: the exported file in ONNX Runtime, and transformers in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.models import BenchmarkModel, prepare_model
from benchmarks.peers import open_peer
from reformer_export.libraries.operators import NativeMode
from reformer_export.measure import Setup
from reformer_export.measure.contenders import Run, open_contender
from reformer_export.runtimes import RuntimeOptions
from reformer_export.spec import DType

NATIVE: Final[dict[str, NativeMode]] = {"portable": "off", "native": "on"}
"""On the function bodies in the file, or on the native operator library's kernels."""


@dataclass(frozen=True)
class Contender:
    """How a model is run: an artifact of `dtype` through `native`, or transformers in `dtype`."""

    dtype: DType
    native: NativeMode | None = None
    compiled: bool = False

    def open(self, shape: str, threads: int) -> Run:
        """The model of `shape`, ready to run."""
        if self.native is None:
            return open_peer(prepare_model(shape), self.dtype, self.compiled)
        model = prepare_model(shape, dtype=self.dtype)
        options = RuntimeOptions(provider="cpu", threads=threads, native=self.native)
        return open_contender(Setup("artifact", str(model.artifact), options))


CONTENDERS: Final[dict[str, Contender]] = {
    "native": Contender("float32", "on"),
    "native-bfloat16": Contender("bfloat16", "on"),
    "portable": Contender("float32", "off"),
    "eager": Contender("float32"),
    "compiled": Contender("float32", compiled=True),
    "eager-bfloat16": Contender("bfloat16"),
    "compiled-bfloat16": Contender("bfloat16", compiled=True),
}


def set_up(contender: str, model: BenchmarkModel, threads: int) -> Setup:
    """`contender` is "portable", "native" or "eager"."""
    if contender == "eager":
        options = RuntimeOptions(threads=threads)
        return Setup("eager", str(model.artifact), options, checkpoint=str(model.checkpoint))
    options = RuntimeOptions(provider="cpu", threads=threads, native=NATIVE[contender])
    return Setup("artifact", str(model.artifact), options)
