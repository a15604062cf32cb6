"""Tokens a second over context length: the artifact's steps beside whole passes and eager, and targets.

    python -m benchmarks.bench_decode [--model crime] [--seconds 15]

float32, the native kernels, the shipped model and the crime shape with random weights; one and 16 sequences
at once, one and two threads, random tokens. Contenders run in turns of 8 steps; peers are whole passes of the
same artifact, and eager on its own cache (which gives other numbers) and without. A prompt's logits are
compared with model.onnx's first, and a sequence in a batch with itself alone. Then one sequence grows by
10,000 tokens. Five to ten minutes on a quiet machine with two cores.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from benchmarks.contenders import set_up
from benchmarks.decode_timing import (
    Growth,
    Point,
    Timing,
    grow_long,
    open_runtimes,
    time_context,
    time_peers,
)
from benchmarks.models import SHIPPED, BenchmarkModel, prepare_model
from benchmarks.report import Row, describe_machine, plot_tokens_per_second, print_table, write_results
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.measure.decoders import DecodeSetup
from reformer_export.measure.decoding_memory import DecodeMemory, measure_decoding

CONTEXTS: Final = {SHIPPED.name: (100, 1024, 1900), "crime": (1024, 16384, 65536)}
BATCHES: Final = (1, 16)
THREADS: Final = (1, 2)
TURNS: Final = 40
GROWN: Final = 10000
"""Tokens by which one sequence grows."""
MARKS: Final = (100, 10000)
"""Steps of it that are compared: the median of 101 around each, or before the last."""

BEFORE: Final = 19.0
"""Tokens/s of the shipped model at 1,900 tokens before it had a cache, on the 2-core machine."""

LABELS: Final = {
    "artifact": "steps",
    "artifact-passes": "whole passes",
    "eager-passes": "eager, whole passes",
    "eager-cache": "eager with its cache (other numbers)",
}


@dataclass(frozen=True)
class Measured:
    """Of one model: timings by point, steps over the first context's in the same turns, bytes of a process of
    its own by (contender, context), and how one sequence grew."""

    model: str
    timings: dict[Point, Timing]
    over_first: dict[Point, float]
    memories: dict[tuple[str, int], DecodeMemory | None]
    growth: dict[int, Growth]


@dataclass(frozen=True)
class Target:
    """Something to reach: what, the number, and the limit that it must not pass."""

    what: str
    value: float
    limit: float
    at_least: bool

    @property
    def reached(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.what}: {self.value:,.3g}, wanted {bound} {self.limit:,.3g}: {verdict}."


def measure_model(model: BenchmarkModel, seconds: float) -> Measured:
    """Everything of one model; `seconds` at most of timing steps at each context, and of timing peers."""
    contexts = CONTEXTS[model.name]
    runtimes = open_runtimes(model, THREADS)
    timings: dict[Point, Timing] = {}
    over_first: dict[Point, float] = {}
    memories: dict[tuple[str, int], DecodeMemory | None] = {}
    growth = {}
    if model.spec.max_length > GROWN:
        click.echo(f"{model.name}: growing by {GROWN:,} tokens ...", err=True)
        growth = {count: grow_long(model, count, GROWN, MARKS[0]) for count in THREADS}
    for length in contexts:
        click.echo(f"{model.name}, {length:,} tokens: timing ...", err=True)
        points = [
            Point("artifact", count, batch, length) for batch, count in itertools.product(BATCHES, THREADS)
        ]
        controls = [Point("artifact", count, 1, contexts[0]) for count in THREADS]
        wanted = list(dict.fromkeys([*controls, *points]))
        found = time_context(model, runtimes, wanted, TURNS, seconds)
        for point in points:
            control = found[Point("artifact", point.threads, 1, contexts[0])]
            ratios = zip(found[point].turns, control.turns, strict=True)
            over_first[point] = statistics.median(ours / first for ours, first in ratios)
            timings[point] = found[point]
        peers = time_peers(model, max(THREADS), length, TURNS, seconds)
        timings |= {point: timing for point, timing in peers.items() if point.contender != "artifact"}
        click.echo(f"{model.name}, {length:,} tokens: measuring memory ...", err=True)
        for name, contender in (("artifact", "native"), ("eager-cache", "eager")):
            setup = DecodeSetup(name, set_up(contender, model, max(THREADS)))  # type: ignore[arg-type]
            memories[name, length] = measure_decoding(setup, 1, length)
    return Measured(model.name, timings, over_first, memories, growth)


def find_targets(measured: Mapping[str, Measured]) -> list[Target]:
    """What was to be reached, by the median step with the better number of threads."""
    targets = []
    if SHIPPED.name in measured:
        rate = 1 / _step(measured[SHIPPED.name], 1, 1900)
        targets.append(Target("shipped model, 1,900 tokens, x of 19 tokens/s", rate / BEFORE, 40, True))
    if "crime" in measured:
        crime = measured["crime"]
        ratios = [crime.over_first[Point("artifact", count, 1, 16384)] for count in THREADS]
        targets += [
            Target("crime, 16,384 tokens, ms a step", 1e3 * _step(crime, 1, 16384), 1.5, False),
            Target("crime, 16,384 tokens, x of a step at 1,024", min(ratios), 1.6, False),
            Target("crime, 65,536 tokens, ms a step", 1e3 * _step(crime, 1, 65536), 2.0, False),
        ]
        for length in CONTEXTS["crime"]:
            more = 16 * _step(crime, 1, length) / _step(crime, 16, length)
            targets.append(Target(f"crime, {length:,} tokens, 16 at once, x tokens/s of one", more, 4, True))
        targets += [_growth_target(count, growth) for count, growth in crime.growth.items()]
    return targets


def _step(measured: Measured, batch: int, length: int) -> float:
    """Seconds of the median step with the better number of threads."""
    return min(measured.timings[Point("artifact", count, batch, length)].median for count in THREADS)


def _around(growth: Growth, mark: int) -> float:
    """Seconds: the median of 101 steps around step `mark`."""
    return statistics.median(growth.seconds[max(0, mark - 51) : mark + 50])


def _growth_target(threads: int, growth: Growth) -> Target:
    first, last = (_around(growth, mark) for mark in MARKS)
    return Target(f"step 10,000 over step 100, {_count_threads(threads)}", last / first, 1.6, False)


def _count_threads(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def list_rows(measured: Measured) -> list[Row]:
    """A line for each point, by context."""
    rows: list[Row] = []
    for point, timing in measured.timings.items():
        memory = measured.memories.get((point.contender, point.length))
        shown = memory if point.batch == 1 and point.threads == max(THREADS) else None
        over = measured.over_first.get(point)
        rows.append(
            {
                "model": measured.model,
                "context": f"{point.length:,}",
                "contender": LABELS[point.contender],
                "threads": str(point.threads),
                "sequences": str(point.batch),
                "steps": str(len(timing.steps)),
                "ms a step": f"{1e3 * timing.median:.2f}",
                "best": f"{1e3 * timing.best:.2f}",
                "tokens/s": f"{point.batch / timing.median:,.1f}",
                "x of one at the first": f"{over:.2f}" if over is not None else "",
                "prompt s": f"{timing.prompt:.3f}",
                "cache MB": f"{shown.cache_bytes / 1e6:,.1f}" if shown is not None else "",
                "held MB": f"{shown.growth_bytes / 1e6:,.1f}" if shown is not None else "",
            }
        )
    return rows


def list_series(measured: Measured) -> dict[str, list[tuple[int, float]]]:
    """Tokens a second over context, with most threads, by label."""
    series: dict[str, list[tuple[int, float]]] = {}
    for point, timing in measured.timings.items():
        if point.threads == max(THREADS):
            many = "" if point.batch == 1 else f", {point.batch} at once"
            label = f"{LABELS[point.contender]}{many}"
            series.setdefault(label, []).append((point.length, point.batch / timing.median))
    return series


def describe(measured: Measured) -> dict[str, Any]:
    """JSON values, every timed step among them."""
    return {
        "model": measured.model,
        "timings": [
            {**point._asdict(), "prompt_seconds": timing.prompt, "step_seconds": timing.steps}
            | {"over_first": measured.over_first.get(point)}
            for point, timing in measured.timings.items()
        ],
        "memory_bytes": [
            {"contender": name, "length": length, "memory": None if memory is None else vars(memory)}
            for (name, length), memory in measured.memories.items()
        ],
        "growth": {
            str(threads): {
                "steps": len(growth.seconds),
                "seconds_around": {str(mark): _around(growth, mark) for mark in MARKS},
                "resident_bytes": growth.resident,
                "cache_bytes": growth.caches,
            }
            for threads, growth in measured.growth.items()
        },
    }


def list_notes(found: Sequence[Measured], targets: Sequence[Target], before: Mapping[str, Any]) -> list[str]:
    """What the table's words mean, the growth, the targets and the machine."""
    after = describe_machine()
    notes = [
        f"steps: decode.onnx in ONNX Runtime with the native kernels; peers: one sequence, {max(THREADS)} "
        "threads. In turns of 8 steps, or of one pass where there is no cache; medians, and the best.",
        "eager with its cache gives other numbers than its own whole pass, and wrong ones in a batch.",
        "x of one at the first: over one sequence's step at the first context, the median over turns.",
        "cache: bytes of the caches; held: resident memory beyond the loaded model, in a process of its own.",
    ]
    for measured in found:
        for threads, growth in measured.growth.items():
            times = " and ".join(
                f"{1e3 * _around(growth, mark):.2f} ms around step {mark:,}" for mark in MARKS
            )
            held = (growth.resident[1] - growth.resident[0]) / 1e6
            caches = (growth.caches[1] - growth.caches[0]) / 1e6
            notes.append(
                f"{measured.model}, one sequence that grows by {len(growth.seconds):,} tokens, "
                f"{_count_threads(threads)}: {times}; from step {MARKS[0]} on memory grew by {held:.1f} MB, "
                f"the caches by {caches:.1f} MB."
            )
    notes += map(str, targets)
    loads = f"load {before['load_average'][0]} before, {after['load_average'][0]} after"
    versions = ", ".join(f"{library} {version}" for library, version in after["versions"].items())
    return [*notes, f"{after['cpu']}, {after['cores']} cores, {loads}, {after['date']}; {versions}."]


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, type=click.Choice(list(CONTEXTS)), default=list(CONTEXTS))
@click.option("--seconds", default=15.0, show_default=True, help="Of timing, at each context, twice.")
@click.option("--name", default="decode", show_default=True, help="Of the result files.")
@silence_transformers()
def main(models: tuple[str, ...], seconds: float, name: str) -> None:
    before = describe_machine()
    measured = {model: measure_model(prepare_model(model, decode=True), seconds) for model in models}
    targets = find_targets(measured)
    rows = [row for each in measured.values() for row in list_rows(each)]
    title = "Decoding: tokens a second over context"
    print_table(title, rows)
    for target in targets:
        click.echo(str(target))
    reached = [{**vars(target), "reached": target.reached} for target in targets]
    data = {"machine": before, "targets": reached, "results": [describe(each) for each in measured.values()]}
    write_results(name, title, rows, data, list_notes(list(measured.values()), targets, before))
    plot_tokens_per_second(name, {model: list_series(each) for model, each in measured.items()})


if __name__ == "__main__":
    main()
