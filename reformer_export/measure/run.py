"""Measure contenders over batches and lengths: memory first, each on its own, then time, all in turns."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.measure.contenders import Name, Run, Setup, open_contender, random_inputs, silence_eager
from reformer_export.measure.machine import BUSY, MeasuredOn, describe_machine, load_average
from reformer_export.measure.memory import Memory, PassFailedError, measure_pass
from reformer_export.measure.timing import Percentiles, is_unsteady, median_ratio, time_in_turns


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Timed(_Named, Protocol):
    @property
    def batch(self) -> int: ...
    @property
    def length(self) -> int: ...


class _Worded(Protocol):
    @property
    def measured(self) -> str: ...


_SetupT = TypeVar("_SetupT", bound=_Named)
_TimedT = TypeVar("_TimedT", bound=_Timed)
_MemoryT = TypeVar("_MemoryT")


@dataclass(frozen=True)
class BenchmarkOptions:
    """Shapes in tokens; `repeat` timed passes of each contender after `warm_up` untimed ones, or as many as
    `max_seconds` allow at a shape, but three at least."""

    lengths: tuple[int, ...]
    batch_sizes: tuple[int, ...] = (1,)
    repeat: int = 20
    warm_up: int = 2
    memory: bool = True
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("batch_sizes", self.batch_sizes)):
            if not values or min(values) < 1:
                raise InputError(name, list(values), "whole numbers from 1 up", "write e.g. 64,1024")


@dataclass(frozen=True)
class Measurement:
    """One contender at one shape: seconds of every timed pass, in order, and its memory where it is known."""

    batch: int
    length: int
    name: str
    seconds: tuple[float, ...]
    memory: Memory | None

    @property
    def latency(self) -> Percentiles:
        return Percentiles.of(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """At the median latency; batch times length tokens a pass."""
        return self.batch * self.length / self.latency.p50 * 1e3


@dataclass(frozen=True)
class BenchmarkResult:
    """All measurements, the contenders by name, and a note for what was left out or is in doubt."""

    setups: tuple[Setup, ...]
    options: BenchmarkOptions
    measurements: tuple[Measurement, ...]
    machine: MeasuredOn
    notes: tuple[str, ...] = field(default=())

    def ratio(self, measurement: Measurement) -> float:
        """How many times as long as the artifact this one took at that shape: the median over the turns, in
        each of which both ran."""
        return median_ratio(measurement.seconds, find_artifact(self.measurements, measurement).seconds)

    @property
    def unsteady(self) -> tuple[Measurement, ...]:
        """Those whose passes took so different times that the machine was busy with something else."""
        return tuple(m for m in self.measurements if is_unsteady(m.seconds))

    @property
    def memory_measured(self) -> str | None:
        """What the memory's numbers are, in words; None when there are none."""
        return tell_memory(m.memory for m in self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON values; latencies in milliseconds, memory in bytes."""
        return {
            "machine": dataclasses.asdict(self.machine),
            "contenders": {s.name: {"device": s.device, "dtype": s.dtype} for s in self.setups},
            "repeat": self.options.repeat,
            "warm_up": self.options.warm_up,
            "memory_measured": self.memory_measured,
            "notes": list(self.notes),
            "results": [
                {
                    "batch": m.batch,
                    "length": m.length,
                    "contender": m.name,
                    "passes": len(m.seconds),
                    "latency_ms": dataclasses.asdict(m.latency),
                    "tokens_per_second": m.tokens_per_second,
                    "times_artifact": self.ratio(m),
                    "peak_memory_bytes": None if m.memory is None else m.memory.peak_bytes,
                    "loaded_memory_bytes": None if m.memory is None else m.memory.loaded_bytes,
                    "seconds": list(m.seconds),
                }
                for m in self.measurements
            ],
        }


def run_benchmark(
    setups: Sequence[Setup],
    options: BenchmarkOptions,
    notes: Sequence[str] = (),
    on_pass: Callable[[int], object] = lambda _count: None,
) -> BenchmarkResult:
    """Measure each of `setups`, the artifact first, at every batch and length.

    `on_pass` is called with 1 for each contender's memory and with 1 for the timing of a shape. A contender
    that cannot do a shape's pass on its own is left out of that shape, with a note.

    Raises:
        RuntimeUnavailableError: the artifact itself could not do a pass.
    """
    load = load_average()
    shapes = list(itertools.product(options.batch_sizes, options.lengths))
    measure = measure_pass if options.memory else None
    jobs = [(setup, *shape) for setup, shape in itertools.product(setups, shapes)]
    memories, left_out = measure_memories(jobs, measure, on_pass)
    runs = {setup.name: open_contender(setup) for setup in setups}
    manifest = read_manifest(Path(setups[0].out))
    measurements: list[Measurement] = []
    for batch, length in shapes:
        able = {name: run for name, run in runs.items() if (name, batch, length) in memories}
        with silence_eager(setups):
            times = _time_shape(able, random_inputs(manifest, batch, length), options)
        measurements += [
            Measurement(batch, length, name, seconds, memories[name, batch, length])
            for name, seconds in times.items()
        ]
        on_pass(1)
    result = BenchmarkResult(tuple(setups), options, tuple(measurements), describe_machine(setups))
    return dataclasses.replace(result, notes=(*notes, *left_out, *warn_of_load(result.unsteady, load)))


def find_artifact(measurements: Iterable[_TimedT], other: _Timed) -> _TimedT:
    """The artifact's measurement at the batch and length of another contender's."""
    shape = (other.batch, other.length, "artifact")
    (artifact,) = (each for each in measurements if (each.batch, each.length, each.name) == shape)
    return artifact


def tell_memory(memories: Iterable[_Worded | None]) -> str | None:
    """What the memories' numbers are, in words; None when there are none."""
    return next((each.measured for each in memories if each is not None), None)


def measure_memories(
    jobs: Sequence[tuple[_SetupT, int, int]],
    measure: Callable[[_SetupT, int, int], _MemoryT | None] | None,
    on_pass: Callable[[int], object],
) -> tuple[dict[tuple[str, int, int], _MemoryT | None], list[str]]:
    """The memory of each of `jobs`, a contender with a batch and a length, by its name and these, None where
    it is not known or `measure` is None; a note for each that could not be done, which is then missing.

    Raises:
        RuntimeUnavailableError: the artifact itself could not.
    """
    memories: dict[tuple[str, int, int], _MemoryT | None] = {}
    left_out: list[str] = []
    for setup, batch, length in jobs:
        try:
            memories[setup.name, batch, length] = None if measure is None else measure(setup, batch, length)
        except PassFailedError as error:
            what = f"{setup.name} at batch {batch}, length {length}"
            if setup.name == "artifact":
                fix = "use shorter `lengths` or smaller `batch_sizes`, or see `reformer-export doctor`"
                raise RuntimeUnavailableError(what, f"no result ({error})", "one", fix) from error
            left_out.append(f"{what}: left out, {error}.")
        on_pass(1)
    return memories, left_out


def warn_of_load(unsteady: Sequence[_Timed], load: float | None) -> list[str]:
    """A note where passes took very different times, or others kept the cores busy as the `load` average of
    the minute before tells."""
    if not unsteady:
        cores = os.cpu_count() or 1  # the system's, as the load average is
        if load is None or load < BUSY * cores:
            return []
        return [
            f"the machine was busy before it began (load average {load:.1f}, cores: {cores}): ratios, of "
            "passes in turns, suffer least, but measure again in quiet."
        ]
    found = ", ".join(f"{m.name} at batch {m.batch}, length {m.length}" for m in unsteady)
    return [
        f"times are unsteady: one pass in ten took twice the median or longer ({found}). The machine was "
        "busy with something else; ratios, of passes in turns, suffer least, but measure again in quiet."
    ]


def _time_shape(
    runs: Mapping[Name, Run], inputs: Any, options: BenchmarkOptions
) -> dict[str, tuple[float, ...]]:
    """Warm every contender up at this shape, then time them in turns."""
    passes = {str(name): functools.partial(run, inputs) for name, run in runs.items()}
    for _ in range(options.warm_up):
        for run in passes.values():
            run()
    gc.collect()
    return time_in_turns(passes, options.repeat, options.max_seconds)
