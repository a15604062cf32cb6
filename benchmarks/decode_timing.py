"""Sequences that grow on caches, timed in turns: contexts, batches and threads; and one that grows long."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import set_up
from benchmarks.models import SHIPPED, BenchmarkModel, random_inputs
from reformer_export.measure.decoders import (
    STEPS_OF_A_TURN,
    ArtifactPasses,
    ArtifactSteps,
    Continuation,
    DecodeSetup,
    open_continuations,
)
from reformer_export.measure.decoding import Stepper
from reformer_export.measure.decoding_memory import DecodeMemory
from reformer_export.measure.memory import resident_bytes
from reformer_export.measure.timing import time_in_turns, time_once
from reformer_export.runtimes import Runtime, load

CONTEXTS: Final = {SHIPPED.name: (100, 1024, 1900), "crime": (1024, 16384, 65536)}
BATCHES: Final = (1, 16)
THREADS: Final = (1, 2)
GROWN: Final = 10000
"""Tokens by which one sequence grows."""
MARKS: Final = (100, 10000)
"""Steps of it that are compared: the median of 101 around each, or before the last."""

WARM_UP: Final = 2
"""Turns of each that are not timed."""

ALONE: Final = 2e-5
"""Of float32 logits of a sequence in a batch, to those of the same one alone."""

PROMPT: Final = 1e-4
"""Of a prompt's logits, to those of model.onnx."""


class Point(NamedTuple):
    """`contender` with so many threads on so many sequences of `length` tokens."""

    contender: str
    threads: int
    batch: int
    length: int


@dataclass(frozen=True)
class Timing:
    """Seconds: of the prompts of all sequences together, and of every step, in turns of `steps_of_a_turn`."""

    prompt: float
    steps: tuple[float, ...]
    steps_of_a_turn: int

    @property
    def median(self) -> float:
        return statistics.median(self.steps)

    @property
    def best(self) -> float:
        return min(self.steps)

    @property
    def turns(self) -> list[float]:
        """The best step of each turn: what least was lost of to whoever else used the machine."""
        return [
            min(self.steps[begin : begin + self.steps_of_a_turn])
            for begin in range(0, len(self.steps), self.steps_of_a_turn)
        ]


@dataclass(frozen=True)
class Plan:
    """How it is timed: numbers of sequences and of threads; turns, and seconds that they may take at a
    context; peers and several sequences up to contexts of so many tokens; by the wall's clock or, where the
    machine is shared, by the processor's, which says little of more threads than one."""

    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = THREADS
    turns: int = 40
    seconds: float = 15.0
    longest_peers: int = 2**20
    longest_batch: int = 2**20
    processor_time: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        return time.process_time if self.processor_time else time.perf_counter


@dataclass(frozen=True)
class Growth:
    """Of one sequence that grew by `steps` tokens: seconds of every step, and at the first mark and at the
    end resident bytes of the process and bytes of the caches."""

    seconds: tuple[float, ...]
    resident: tuple[int, int]
    caches: tuple[int, int]


@dataclass(frozen=True)
class Measured:
    """Of one model: timings by point, steps over the first context's in the same turns, bytes of a process of
    its own by (contender, context), and how one sequence grew."""

    model: str
    timings: dict[Point, Timing]
    over_first: dict[Point, float]
    memories: dict[tuple[str, int], DecodeMemory | None]
    growth: dict[int, Growth]


def open_runtimes(model: BenchmarkModel, threads: tuple[int, ...]) -> dict[int, Runtime]:
    """The artifact on the native kernels, by its number of threads."""
    setups = {count: set_up("native", model, count) for count in threads}
    return {count: load(setup.out, setup.options) for count, setup in setups.items()}


def draw_tokens(model: BenchmarkModel, batch: int, length: int, turns: int) -> NDArray[np.int64]:
    """int64 [batch, length and room for the turns]; the first row is the same in every batch."""
    room = min((WARM_UP + turns) * STEPS_OF_A_TURN, model.spec.max_length - length)
    return random_inputs(model.spec.vocab_size, length + room, batch)


def time_context(
    model: BenchmarkModel, runtimes: Mapping[int, Runtime], points: list[Point], plan: Plan
) -> dict[Point, Timing]:
    """Steps of the artifact at each of `points`, in turns."""
    steppers: dict[Point, Stepper] = {}
    prompts: dict[Point, float] = {}
    opened: list[Continuation] = []
    first: dict[tuple[int, int], NDArray[np.float32]] = {}
    for point in points:
        tokens = draw_tokens(model, point.batch, point.length, plan.turns)
        steps = ArtifactSteps(runtimes[point.threads])
        opened.append(steps)
        check_prompt(runtimes[point.threads], steps, tokens[:1, : min(point.length, 1024)])
        steppers[point] = Stepper(steps, tokens, point.length, plan.clock)
        prompts[point] = time_once(steppers[point].read_prompt, plan.clock)
        logits = steps.step(tokens[:, point.length])[0]
        alone = first.setdefault((point.threads, point.length), logits)
        np.testing.assert_allclose(logits, alone, atol=ALONE, rtol=ALONE)
        steppers[point].skip(1)
    found = _time_steppers(steppers, prompts, plan)
    for each in opened:
        each.close()
    return found


def check_prompt(runtime: Runtime, steps: ArtifactSteps, ids: NDArray[np.int64]) -> None:
    """AssertionError unless the prompt's logits are model.onnx's."""
    np.testing.assert_allclose(steps.start(ids), ArtifactPasses(runtime).start(ids), atol=PROMPT, rtol=PROMPT)


def time_peers(model: BenchmarkModel, length: int, plan: Plan) -> dict[Point, Timing]:
    """One sequence, beside the artifact's steps: whole passes, and eager on its cache and without."""
    threads = max(plan.threads)
    artifact, eager = set_up("native", model, threads), set_up("eager", model, threads)
    setups = [
        DecodeSetup("artifact", artifact),
        DecodeSetup("artifact-passes", artifact),
        DecodeSetup("eager-passes", eager),
        DecodeSetup("eager-cache", eager),
    ]
    tokens = draw_tokens(model, 1, length, plan.turns)
    with open_continuations(setups) as opened:
        steppers = {
            Point(name, threads, 1, length): Stepper(each, tokens, length, plan.clock)
            for name, each in opened.items()
        }
        prompts = {point: time_once(each.read_prompt, plan.clock) for point, each in steppers.items()}
        return _time_steppers(steppers, prompts, plan)


def _time_steppers(
    steppers: Mapping[Point, Stepper], prompts: Mapping[Point, float], plan: Plan
) -> dict[Point, Timing]:
    for stepper in steppers.values():
        for _ in range(WARM_UP if stepper.steps > 1 else 0):  # a pass is warm from its prompt
            stepper.take_turn()
        stepper.seconds.clear()
    time_in_turns({str(point): each.take_turn for point, each in steppers.items()}, plan.turns, plan.seconds)
    return {
        point: Timing(prompts[point], tuple(each.seconds), each.steps) for point, each in steppers.items()
    }


def grow_long(model: BenchmarkModel, threads: int, plan: Plan) -> Growth:
    """Let a sequence of one token grow by `GROWN` random ones."""
    (runtime,) = open_runtimes(model, (threads,)).values()
    tokens = random_inputs(model.spec.vocab_size, 1 + GROWN)[0].tolist()
    seconds: list[float] = []
    resident, caches = [], []
    with runtime.start_decoding() as state:
        key = state.add(tokens[:1])
        for number, token in enumerate(tokens[1:], 1):
            begin = plan.clock()
            state.step({key: token})
            seconds.append(plan.clock() - begin)
            if number in MARKS:
                resident.append(resident_bytes())
                caches.append(state.nbytes)
    return Growth(tuple(seconds), (resident[0], resident[1]), (caches[0], caches[1]))
