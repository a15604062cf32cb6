"""Where and how an artifact runs, in one description: for `load`, the command line and every workflow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, TypeVar, get_args

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES, EngineRuntime
from reformer_export.errors import InputError, one_line_repr
from reformer_export.libraries.operators import NativeMode
from reformer_export.runtimes.field_types import check_field_types

ONNXRUNTIME: Final = "onnxruntime"
RuntimeName = Literal["onnxruntime"] | EngineRuntime
RUNTIMES: Final[tuple[RuntimeName, ...]] = (ONNXRUNTIME, *ENGINE_RUNTIMES)
Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
Device = Literal["cpu", "cuda"]
"""Where a value lies: on the host, or on the GPU that the model runs on."""
OpenFor = Literal["run", "generate"]
Options = TypeVar("Options")


OVERSUBSCRIBED: Final = 64
"""Threads that any machine may be asked for. More than it has only wait for each other: 1,024 on two cores
take more than a minute to open a model."""


def max_threads() -> int:
    """Threads that an operator may be given here."""
    return max(OVERSUBSCRIBED, os.cpu_count() or 1)


@dataclass(frozen=True)
class RuntimeOptions:
    """How to run an artifact.

    Attributes:
        runtime: one of `RUNTIMES`.
        provider: "cpu", "cuda", or "auto" (CUDA when this machine has it).
        threads: CPU threads an operator may use; None lets the runtime choose.
        native: whether the CPU runs the native operator library's kernels: "auto" when it is installed,
            "on" (an error without it) or "off" (the function bodies in the file).
        engine: for TensorRT, which of the artifact's engines; None for the only one that fits this machine.
        cuda_graphs: for TensorRT, launch the work of shapes that come again as one CUDA graph.
        tf32: on CUDA, let products of float32 round what they multiply to TF32 (10 bits of mantissa): faster,
            with the errors and the flipped hashes of float16. For artifacts in float32.
        num_hashes: rounds of hashing of runs that name no other, for an artifact exported with --max-hashes;
            None for all of them. An engine has those that were built in: it is refused when it has others.
        check: compare every file of the artifact with its SHA-256 in the manifest; an engine and its plugin
            library are always compared with the engine's record.
        allow_engine_code: open an engine that carries machine code for the host (an embedded plugin library,
            or the lean runtime of a version-compatible engine), which runs as you: for senders you trust.
        device_id: which GPU, counted from 0 as `doctor` lists them (those that CUDA_VISIBLE_DEVICES leaves);
            None for the first. Arrays that come from the GPU and stay there are on that one.
        open_for: which of an artifact's graphs, or of its engines, is opened at once: "run" model.onnx, for
            whole passes; "generate" decode.onnx, where there is one. The other is opened when it is needed;
            each holds the weights, so that a process that only generates needs half the memory.

    `provider`, `threads`, `native` and `tf32` are ONNX Runtime's: TensorRT always takes the GPU,
    its plugins, and the types that were built in. InputError for a value that is out of range, or not the
    chosen runtime's.
    """

    runtime: RuntimeName = ONNXRUNTIME
    provider: Provider = "auto"
    threads: int | None = None
    native: NativeMode = "auto"
    engine: str | None = None
    cuda_graphs: bool = False
    tf32: bool = False
    num_hashes: int | None = None
    check: bool = True
    allow_engine_code: bool = False
    device_id: int | None = None
    open_for: OpenFor = "run"

    def __post_init__(self) -> None:
        most = max_threads()
        threads_fit = self.threads is None or (type(self.threads) is int and 1 <= self.threads <= most)
        expected = f"an integer from 1 up to {most} on this machine"
        self._require("threads", threads_fit, expected, "leave it out to use all cores")
        id_fits = self.device_id is None or (type(self.device_id) is int and self.device_id >= 0)
        self._require("device_id", id_fits, "a GPU's index, from 0", "leave it out to use the first")
        is_name = self.engine is None or isinstance(self.engine, str)
        self._require("engine", is_name, "an engine's name", "leave it out to use the one that fits")
        check_field_types(self, but=("num_hashes",))
        self._refuse_what_the_runtime_does_not_take()
        if self.tf32 and self.provider == "cpu":
            fix = 'leave it out, or use `provider="cuda"`'
            raise InputError("tf32", "it on the CPU, which has none", "CUDA as the provider", fix)
        if self.device_id is not None and self.provider == "cpu":
            fix = 'leave it out, or use `provider="cuda"`'
            raise InputError("device_id", "it with the CPU", "CUDA as the provider", fix)

    def _require(self, name: str, holds: bool, expected: str, fix: str) -> None:
        if not holds:
            got = one_line_repr(getattr(self, name))
            raise InputError(name, got=got, expected=expected, fix=fix)

    @property
    def is_engine(self) -> bool:
        """Whether an engine runs, not model.onnx."""
        return self.runtime != ONNXRUNTIME

    def _refuse_what_the_runtime_does_not_take(self) -> None:
        given = {
            "engine": self.engine is not None,
            "cuda_graphs": self.cuda_graphs,
            "allow_engine_code": self.allow_engine_code,
        }
        if self.is_engine:
            given = {
                "provider": self.provider == "cpu",
                "threads": self.threads is not None,
                "native": self.native == "off",
                "tf32": self.tf32,
            }
        for name, is_given in given.items():
            if is_given:
                raise InputError(
                    name,
                    got=f"one that {self.runtime} does not take",
                    expected="none for this runtime",
                    fix="leave it out, or choose another runtime",
                )


class RuntimeFields(TypedDict, total=False):
    """The fields of `RuntimeOptions` as keywords, for type checkers and editors."""

    runtime: RuntimeName
    provider: Provider
    threads: int | None
    native: NativeMode
    engine: str | None
    cuda_graphs: bool
    tf32: bool
    num_hashes: int | None
    check: bool
    allow_engine_code: bool
    device_id: int | None
    open_for: OpenFor


def options_from_fields(kind: type[Options], options: Options | None, fields: Mapping[str, Any]) -> Options:
    """`options`, or the `kind` of `fields`; InputError for both at once and for what is neither."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    got = next((name for name in fields if name not in known), None)
    if options is not None and fields:
        got = f"options and {', '.join(fields)}"
    elif options is not None and not isinstance(options, kind):
        got = f"{one_line_repr(options)} as options"
    if got is not None:
        raise InputError(
            "options",
            got=got,
            expected=f"{kind.__name__}, or fields of it: {', '.join(known)}",
            fix=f"see `help({kind.__module__}.{kind.__name__})`",
        )
    return kind(**fields) if options is None else options
