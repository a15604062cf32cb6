"""What a comparison with eager is asked to compare, and on what."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES
from reformer_export.errors import InputError
from reformer_export.libraries.operators import NativeMode
from reformer_export.parity.compare import GivenTolerance
from reformer_export.runtimes import RUNTIMES, RuntimeOptions
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import ONNXRUNTIME, Provider, RuntimeName


@dataclass(frozen=True)
class VerifyRequest:
    """What to compare, and on what.

    Attributes:
        checkpoint: folder or hub id; None for the one that was exported.
        runtimes: what runs the artifact.
        engine, cuda_graphs, allow_engine_code: of the TensorRT runtimes, as in `RuntimeOptions`.
        provider, native, threads: of ONNX Runtime, as in `RuntimeOptions`; with an engine they are for ONNX
            Runtime on the CPU, which runs model.onnx with pinned buckets beside it.
        tf32: as in `RuntimeOptions`; the comparison is then judged by that rounding.
        lengths: sequence lengths, tokens; None for those around the chunk lengths and up to the longest.
        batch_sizes: None for 1 to 3.
        num_hashes: numbers of hash rounds, for an artifact whose runs choose them; none for all, and a few
            inputs with fewer.
        data: a UTF-8 text, on which next-token loss and speed are measured for several numbers of hashes.
        data_length: tokens of a sequence that `data` is cut into; None for the longest that runs.
        beside: other artifacts of the same checkpoint, whose size, speed and loss are told with this one's.
        bisect: a new folder; the first node that differs from eager is named, and written there.
        details: also look inside the model on the first runtime, for a report's pictures.
        seed: of the random inputs.
        device_id: as in `RuntimeOptions`.
        inputs: a .npz or .jsonl file as `run --file` reads it, whose sequences are compared, not random ones;
            neighbours of one length go together, up to `batch_sizes` (None: 8). For an artifact of the task
            custom the inputs of a call of the module, as `export_module` takes them, or a list of such, or a
            .npz file of arrays by the inputs' names.
        module: what an artifact of the task custom was made of, in eval mode on the CPU; or where to get it,
            `package.module:function`, which is imported and called, and returns the module, or the module and
            `inputs`.
        atol, rtol: the largest error of outputs, `atol` + `rtol` x the largest expected one, in place of the
            dtype's tolerance; None for 0, both for the dtype's.
    """

    checkpoint: str | None = None
    runtimes: tuple[RuntimeName, ...] = (ONNXRUNTIME,)
    engine: str | None = None
    cuda_graphs: bool = False
    allow_engine_code: bool = False
    provider: Provider = "auto"
    native: NativeMode = "auto"
    threads: int | None = None
    tf32: bool = False
    lengths: Sequence[int] | None = None
    batch_sizes: Sequence[int] | None = None
    num_hashes: Sequence[int] = ()
    data: Path | None = None
    data_length: int | None = None
    beside: tuple[Path, ...] = ()
    bisect: Path | None = None
    details: bool = False
    seed: int = 0
    device_id: int | None = None
    inputs: Any = None
    module: object = None
    atol: float | None = None
    rtol: float | None = None

    def __post_init__(self) -> None:
        given = self.runtimes if isinstance(self.runtimes, list | tuple) else ()
        unknown = [name for name in given if isinstance(name, str) and name not in RUNTIMES]
        if unknown:
            raise InputError("runtimes", repr(unknown[0]), " or ".join(RUNTIMES), "name one")
        check_field_types(self, but=("inputs",))
        if isinstance(self.inputs, str | os.PathLike):
            object.__setattr__(self, "inputs", Path(os.fsdecode(self.inputs)))
        if not self.runtimes:
            raise InputError("runtimes", "none", " or ".join(RUNTIMES), "name one")
        is_engine = bool(set(self.runtimes) & set(ENGINE_RUNTIMES))
        of_engines = [name for name in ("engine", "cuda_graphs", "allow_engine_code") if getattr(self, name)]
        if of_engines and not is_engine:
            raise InputError(
                of_engines[0],
                "it with no TensorRT among the runtimes",
                "a runtime of TensorRT",
                f"add {' or '.join(ENGINE_RUNTIMES)} to `runtimes`",
            )
        if self.bisect is not None and ONNXRUNTIME not in self.runtimes:
            raise InputError(
                "bisect",
                f"{self.runtimes[0]}, whose nodes cannot be run one by one",
                f"{ONNXRUNTIME} among the runtimes",
                f"add {ONNXRUNTIME} to `runtimes`",
            )
        if self.tf32 and ONNXRUNTIME not in self.runtimes:
            raise InputError(
                "tf32",
                f"it with {self.runtimes[0]}, which computes in the types of the engine",
                f"{ONNXRUNTIME} among the runtimes",
                "leave it out",
            )
        self.options_of(ONNXRUNTIME)  # which refuses what does not go together, before any work
        if self.calls is not None and self.batch_sizes is not None:
            got, fix = "it beside arrays", "leave it out: arrays have their own"
            raise InputError("batch_sizes", got, "`inputs` from a file", fix)
        if self.inputs is not None and self.lengths is not None:
            raise InputError("inputs", "`lengths` too", "one of them", "choose: a file has its own lengths")
        self._check_tolerance()
        if self.data is None and self.data_length is not None:
            raise InputError("data_length", f"{self.data_length} without a text", "`data` too", "add it")

    @property
    def calls(self) -> list[Any] | None:
        """`inputs` of each call of a module, where they are not a file's."""
        if self.inputs is None or isinstance(self.inputs, Path):
            return None
        return calls_of(self.inputs)

    def _check_tolerance(self) -> None:
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(name, value, "a finite number from 0 up", "choose another")
        if self.given_tolerance == GivenTolerance():
            raise InputError(
                "atol", "a tolerance of 0", "one that rounding can keep", "give `atol` or `rtol`"
            )

    @property
    def given_tolerance(self) -> GivenTolerance | None:
        """What is allowed in place of the dtype's tolerance."""
        if self.atol is None and self.rtol is None:
            return None
        return GivenTolerance(self.atol or 0.0, self.rtol or 0.0)

    def options_of(self, runtime: RuntimeName) -> RuntimeOptions:
        """What opens `runtime`, with those of the options that are its own."""
        if runtime in ENGINE_RUNTIMES:
            return RuntimeOptions(
                runtime,
                device_id=self.device_id,
                engine=self.engine,
                cuda_graphs=self.cuda_graphs,
                allow_engine_code=self.allow_engine_code,
            )
        return RuntimeOptions(
            runtime,
            provider=self.provider,
            device_id=self.device_id,
            native=self.native,
            threads=self.threads,
            tf32=self.tf32,
        )


def calls_of(inputs: Any) -> list[Any]:
    """The inputs of each of several calls, which a list holds; else those of one."""
    return inputs if isinstance(inputs, list) else [inputs]
