"""Measure how contenders continue sequences, over context length: the prompt, then tokens, all in turns."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure.contenders import random_ids, silence_eager
from reformer_export.measure.decoders import (
    STEPS_OF_A_TURN,
    Continuation,
    DecodeName,
    DecodeSetup,
    open_continuations,
)
from reformer_export.measure.decoding_memory import DecodeMemory, measure_decoding
from reformer_export.measure.machine import MeasuredOn, describe_machine, load_average
from reformer_export.measure.run import (
    BenchmarkOptions,
    find_artifact,
    measure_memories,
    tell_memory,
    warn_of_load,
)
from reformer_export.measure.timing import Percentiles, is_unsteady, median_ratio, time_in_turns, time_once

PROMPT_TURNS: Final = 3
"""Timed prompts of each contender, less where they take long."""

PROMPTS_SHARE: Final = 3
"""Prompts may take a third of the time that a shape's steps may."""

BATCH_OF_A_CACHE: Final = "transformers' cache answers every row of a batch from the first row's states"


@dataclass(frozen=True)
class DecodeMeasurement:
    """One contender, continuing `batch` sequences of `length` tokens.

    `prompt_seconds`: of each timed prompt, all rows together; `step_seconds`: of every timed step, a token of
    each row, in turns of `steps_of_a_turn`.
    """

    batch: int
    length: int
    name: DecodeName
    prompt_seconds: tuple[float, ...]
    step_seconds: tuple[float, ...]
    steps_of_a_turn: int
    memory: DecodeMemory | None

    @property
    def prompt(self) -> Percentiles:
        """Until the first token."""
        return Percentiles.of(self.prompt_seconds)

    @property
    def step(self) -> Percentiles:
        return Percentiles.of(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Of all rows, at the median step, the prompt not counted."""
        return self.batch / self.step.p50 * 1e3

    @property
    def turn_seconds(self) -> tuple[float, ...]:
        """The median step of each turn."""
        turns = np.reshape(self.step_seconds, (-1, self.steps_of_a_turn))
        return tuple(np.median(turns, axis=1).tolist())


@dataclass(frozen=True)
class DecodeResult:
    """All measurements; the contenders by name; notes; `load` is the machine's load average over a minute,
    before and after, None where the system does not tell."""

    setups: tuple[DecodeSetup, ...]
    options: BenchmarkOptions
    measurements: tuple[DecodeMeasurement, ...]
    machine: MeasuredOn
    load: tuple[float | None, float | None]
    notes: tuple[str, ...] = field(default=())

    def ratio(self, measurement: DecodeMeasurement) -> float:
        """How many times as long as the artifact's step this one took there: the median over the turns."""
        artifact = find_artifact(self.measurements, measurement)
        return median_ratio(measurement.turn_seconds, artifact.turn_seconds)

    @property
    def unsteady(self) -> tuple[DecodeMeasurement, ...]:
        """Those whose turns took very different times."""
        return tuple(m for m in self.measurements if is_unsteady(m.turn_seconds))

    @property
    def memory_measured(self) -> str | None:
        """What the memory's numbers are, in words; None when there are none."""
        return tell_memory(m.memory for m in self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON values; latencies in milliseconds, memory in bytes."""
        setups = {each.name: each.setup for each in self.setups}
        return {
            "machine": dataclasses.asdict(self.machine),
            "load_average": {"before": self.load[0], "after": self.load[1]},
            "contenders": {name: {"device": s.device, "dtype": s.dtype} for name, s in setups.items()},
            "repeat": self.options.repeat,
            "warm_up": self.options.warm_up,
            "memory_measured": self.memory_measured,
            "notes": list(self.notes),
            "results": [self._describe(m) for m in self.measurements],
        }

    def _describe(self, m: DecodeMeasurement) -> dict[str, Any]:
        return {
            "batch": m.batch,
            "length": m.length,
            "contender": m.name,
            "prompt_ms": m.prompt.p50,
            "steps": len(m.step_seconds),
            "steps_of_a_turn": m.steps_of_a_turn,
            "step_ms": dataclasses.asdict(m.step),
            "tokens_per_second": m.tokens_per_second,
            "times_artifact": self.ratio(m),
            "memory_bytes": None if m.memory is None else dataclasses.asdict(m.memory),
            "prompt_seconds": list(m.prompt_seconds),
            "step_seconds": list(m.step_seconds),
        }


class Stepper:
    """A contender on tokens int64 [batch, length + room]: a turn takes its next steps and keeps their
    seconds by `clock`, the wall's; where the room is used up, it begins again at `length`, untimed."""

    def __init__(
        self,
        continuation: Continuation,
        tokens: NDArray[np.int64],
        length: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.steps = continuation.steps_of_a_turn
        self.seconds: list[float] = []
        self._continuation = continuation
        self._tokens = tokens
        self._length = self._at = length
        self._clock = clock

    def read_prompt(self) -> None:
        self._continuation.start(self._tokens[:, : self._length])
        self._at = self._length

    def skip(self, steps: int) -> None:
        """So many were taken without it."""
        self._at += steps

    def take_turn(self) -> None:
        if self._at + self.steps > self._tokens.shape[1]:
            self.read_prompt()
        for at in range(self._at, self._at + self.steps):
            step = functools.partial(self._continuation.step, self._tokens[:, at])
            self.seconds.append(time_once(step, self._clock))
        self._at += self.steps


def count_room(max_length: int, options: BenchmarkOptions) -> int:
    """Tokens that are kept free behind the longest prompt: those of all turns, in a short model fewer."""
    wanted = (options.warm_up + options.repeat) * STEPS_OF_A_TURN
    return max(STEPS_OF_A_TURN, min(wanted, max_length // 4))


def list_jobs(setups: Sequence[DecodeSetup], options: BenchmarkOptions) -> list[tuple[DecodeSetup, int, int]]:
    """Each contender with the batches and lengths that it is measured at: eager's cache alone."""
    shapes = itertools.product(options.batch_sizes, options.lengths)
    pairs = itertools.product(setups, shapes)
    return [(each, *shape) for each, shape in pairs if shape[0] == 1 or each.name != "eager-cache"]


def run_decode_benchmark(
    setups: Sequence[DecodeSetup],
    options: BenchmarkOptions,
    max_length: int,
    notes: Sequence[str] = (),
    on_pass: Callable[[int], object] = lambda _count: None,
) -> DecodeResult:
    """Measure each of `setups`, the artifact first, at every batch and length, of sequences that may grow to
    `max_length` tokens.

    `on_pass` is called with 1 for each of `list_jobs` and with 1 for the timing of a shape. A contender
    that cannot do a shape on its own is left out of it, with a note; so is eager's cache of batches.

    Raises:
        RuntimeUnavailableError: the artifact itself could not.
    """
    load = load_average()
    measure = measure_decoding if options.memory else None
    memories, left_out = measure_memories(list_jobs(setups, options), measure, on_pass)
    plain = [each.setup for each in setups]
    vocab_size = read_manifest(Path(plain[0].out)).spec.vocab_size
    room = count_room(max_length, options)
    measurements: list[DecodeMeasurement] = []
    with open_continuations(setups) as opened, silence_eager(plain):
        for batch, length in itertools.product(options.batch_sizes, options.lengths):
            tokens = random_ids(vocab_size, batch, min(length + room, max_length))
            able = {name: each for name, each in opened.items() if (name, batch, length) in memories}
            for name, (prompts, stepper) in _time_shape(able, tokens, length, options).items():
                times = (prompts, tuple(stepper.seconds), stepper.steps)
                memory = memories[name, batch, length]
                measurements.append(DecodeMeasurement(batch, length, name, *times, memory))
            on_pass(1)
    if max(options.batch_sizes) > 1 and any(each.name == "eager-cache" for each in setups):
        left_out.append(f"eager-cache: left out of batches, where it is wrong: {BATCH_OF_A_CACHE}.")
    machine, loads = describe_machine(plain), (load, load_average())
    result = DecodeResult(tuple(setups), options, tuple(measurements), machine, loads)
    return dataclasses.replace(result, notes=(*notes, *left_out, *warn_of_load(result.unsteady, load)))


def _time_shape(
    continuations: Mapping[DecodeName, Continuation],
    tokens: NDArray[np.int64],
    length: int,
    options: BenchmarkOptions,
) -> dict[DecodeName, tuple[tuple[float, ...], Stepper]]:
    """Prompts in turns, then steps in turns."""
    steppers = {name: Stepper(each, tokens, length) for name, each in continuations.items()}
    share = None if options.max_seconds is None else options.max_seconds / PROMPTS_SHARE
    starts = {str(name): stepper.read_prompt for name, stepper in steppers.items()}
    prompts = time_in_turns(starts, 1 + PROMPT_TURNS, share, min_turns=1)
    for stepper in steppers.values():
        if stepper.steps > 1:  # a pass is warm from its prompts
            for _ in range(options.warm_up):
                stepper.take_turn()
        stepper.seconds.clear()
    gc.collect()
    turns = {str(name): stepper.take_turn for name, stepper in steppers.items()}
    time_in_turns(turns, options.repeat, options.max_seconds)
    for each in continuations.values():
        each.close()
    # The first prompt at a shape also allocates.
    return {name: (prompts[name][-PROMPT_TURNS:], stepper) for name, stepper in steppers.items()}
