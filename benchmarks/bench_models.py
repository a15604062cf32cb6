"""Whole-model forward passes: the exported file in ONNX Runtime, and transformers eager and compiled.

    python -m benchmarks.bench_models [--shape crime] [--contender native --contender eager ...] [--threads 2]

Batch 1, all logits. All run in turns in this process, and the first one is what the others are compared with;
peak memory is measured afterwards, each in a process of its own. Before anything is timed the outputs in
float32 are compared with eager's, and compiled code is asked whether it hashes as eager does.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np
import torch

from benchmarks.contenders import CONTENDERS, NATIVE, set_up
from benchmarks.models import SHAPES, BenchmarkModel, count_flops, prepare_model, random_inputs
from benchmarks.peers import forget_compiled
from benchmarks.report import (
    Row,
    describe_machine,
    describe_place,
    describe_run,
    plot_cost_per_token,
    print_table,
    write_results,
)
from benchmarks.timing import measure_ceiling
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.measure.contenders import Run
from reformer_export.measure.memory import Memory, measure_pass
from reformer_export.measure.timing import median_ratio, time_in_turns

MEDIAN_TOLERANCE: Final = 1e-4
"""On the median over tokens of the largest difference: a bucket that flips on a near-tie changes some tokens,
a wrong model changes all."""

COMPARED_TOKENS: Final = 2048
"""At greater lengths some token nearly always hashes differently on a near-tie and moves the chunks of
every later one: what `reformer-export verify` tells apart, a median does not."""

NOTES: Final = (
    "native: ONNX Runtime with the operator library; portable: on model.onnx alone. eager: transformers, "
    "inference mode; compiled: torch.compile, no_grad, on eager's own random numbers (fallback_random), "
    "compiled anew for each length. All in float32, or in what the name says.",
    "x: the contender's time over the first one's, the median over turns, in each of which all run once; "
    "spread: its quartiles.",
    "ceiling: share of the best float32 matrix-product rate that ONNX Runtime reached in the same run.",
    "extra memory: peak resident size of one pass in a fresh process, less that after loading.",
    f"difference: largest and median-over-tokens difference from eager's logits in float32 at up to "
    f"{COMPARED_TOKENS:,} tokens, each hashing for itself.",
)


@dataclass(frozen=True)
class Result:
    """One shape at one length: of each contender, the first one ahead, seconds by turn, the largest and the
    median-over-tokens difference from eager in float32, and memory where it was measured."""

    shape: str
    length: int
    flops: float
    seconds: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, tuple[float, float]]
    memory: Mapping[str, Memory]

    def ratio(self, contender: str) -> float:
        """Its time over the first one's."""
        return median_ratio(self.seconds[contender], next(iter(self.seconds.values())))

    def spread(self, contender: str) -> tuple[float, float]:
        """The quartiles of the turns' ratios."""
        ratios = np.divide(self.seconds[contender], next(iter(self.seconds.values())))
        low, high = np.percentile(ratios, (25, 75))
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "tokens": self.length,
            "gflop": self.flops / 1e9,
            "contenders": {name: self._contender_to_dict(name) for name in self.seconds},
        }

    def _contender_to_dict(self, name: str) -> dict[str, Any]:
        largest, median = self.differences[name]
        memory = self.memory.get(name)
        return {
            "seconds": self.seconds[name],
            "median_of_ratios": self.ratio(name),
            "quartiles": self.spread(name),
            "difference": {"max": largest, "median": median},
            "memory_bytes": memory
            and {"loaded": memory.loaded_bytes, "peak": memory.peak_bytes, "extra": memory.extra_bytes},
        }

    def to_rows(self, ceiling: float) -> list[Row]:
        """A row a contender; `ceiling` in GFLOP/s."""
        rows = []
        for name, seconds in self.seconds.items():
            median, (low, high) = statistics.median(seconds), self.spread(name)
            memory = self.memory.get(name)
            rows.append(
                {
                    "shape": self.shape,
                    "tokens": f"{self.length:,}",
                    "contender": name,
                    "ms": f"{1e3 * median:,.1f}",
                    f"x {next(iter(self.seconds))}": f"{self.ratio(name):.2f} ({low:.2f} to {high:.2f})",
                    "turns": str(len(seconds)),
                    "ceiling": f"{self.flops / median / 1e9 / ceiling:.0%}",
                    "difference": "{:.0e}, {:.0e}".format(*self.differences[name]),
                    "extra MB": f"{memory.extra_bytes / 1e6:,.0f}" if memory else "-",
                }
            )
        return rows


@dataclass(frozen=True)
class Options:
    """What the command line chose; `max_seconds` is per shape and length."""

    contenders: tuple[str, ...]
    threads: int
    max_turns: int
    max_seconds: float
    memory: bool
    name: str


def compare_outputs(
    runs: Mapping[str, Run], model: BenchmarkModel, length: int
) -> dict[str, tuple[float, float]]:
    """Largest and median-over-tokens difference of each contender's logits from eager's in float32, at up to
    `COMPARED_TOKENS`."""
    input_ids = random_inputs(model.spec.vocab_size, min(length, COMPARED_TOKENS))
    eager = runs.get("eager") or CONTENDERS["eager"].open(model.name, torch.get_num_threads())
    expected = eager(input_ids)["logits"]
    differences = {}
    for name, run in runs.items():
        by_token = np.abs(run(input_ids)["logits"] - expected).max(axis=-1)
        differences[name] = float(by_token.max()), float(np.median(by_token))
        if CONTENDERS[name].dtype == "float32" and not differences[name][1] <= MEDIAN_TOLERANCE:
            raise click.ClickException(
                f"{name} {model.name} at {length} tokens: got logits that differ by "
                f"{differences[name][1]:.1e} for half of the tokens, expected at most "
                f"{MEDIAN_TOLERANCE:.0e}; run `reformer-export verify {model.artifact}`"
            )
    return differences


def time_model(model: BenchmarkModel, length: int, runs: Mapping[str, Run], options: Options) -> Result:
    """Compare the outputs of `runs`, then time them in turns."""
    click.echo(f"{model.name}, {length:,} tokens: timing ...", err=True)
    forget_compiled()
    differences = compare_outputs(runs, model, length)
    if length > COMPARED_TOKENS:
        forget_compiled()
    ids = random_inputs(model.spec.vocab_size, length)
    ready = {name: functools.partial(run, ids) for name, run in runs.items()}
    for run in (*ready.values(), *ready.values()):  # some code is compiled in the second one only
        run()
    seconds = time_in_turns(ready, options.max_turns, options.max_seconds)
    return Result(model.name, length, count_flops(model.spec, length), seconds, differences, {})


def add_memory(model: BenchmarkModel, result: Result, threads: int) -> Result:
    """`result` with the memory of one pass in float32 of the file and of eager, each in its own process."""
    click.echo(f"{model.name}, {result.length:,} tokens: measuring memory ...", err=True)
    found = {
        name: measure_pass(set_up(name, model, threads), 1, result.length)
        for name in result.seconds
        if name in (*NATIVE, "eager")
    }
    return dataclasses.replace(result, memory={name: m for name, m in found.items() if m is not None})


def bench_model(shape: str, lengths: list[int], options: Options) -> list[Result]:
    """Compare, time and weigh the contenders at each length."""
    model = prepare_model(shape)
    runs = {name: CONTENDERS[name].open(shape, options.threads) for name in options.contenders}
    results = [time_model(model, length, runs, options) for length in lengths]
    runs.clear()  # their memory goes to the processes below
    if not options.memory:
        return results
    return [add_memory(model, result, options.threads) for result in results]


def write_report(options: Options, ceiling: dict[str, float], results: list[Result]) -> None:
    """The table on standard output, and benchmarks/results/NAME.{json,md,png}."""
    machine = describe_machine()
    threads = options.threads
    title = f"Whole models, {threads} thread{'s' * (threads > 1)}, {describe_place(machine)}"
    rates = ", ".join(f"{library} {rate:.0f}" for library, rate in ceiling.items())
    rows = [row for result in results for row in result.to_rows(ceiling["onnxruntime"])]
    print_table(f"{title} (matrix product, GFLOP/s: {rates})", rows)
    data = {"machine": machine, "threads": threads, "ceiling_gflops": ceiling}
    data["results"] = [result.to_dict() for result in results]
    notes = [*NOTES, f"Matrix product, GFLOP/s: {rates}.", describe_run(machine)]
    write_results(options.name, title, rows, data, notes)
    series: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        for contender, seconds in result.seconds.items():
            point = (result.length, statistics.median(seconds))
            series.setdefault(f"{result.shape}, {contender}", []).append(point)
    plot_cost_per_token(options.name, title, series)


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), default=list(SHAPES))
@click.option("--lengths", default="1024,4096,16384", show_default=True, help="Tokens, comma-separated.")
@click.option(
    "--contender",
    "contenders",
    multiple=True,
    type=click.Choice(list(CONTENDERS)),
    default=list(CONTENDERS),
    help="The first one is what the others are compared with.  [default: all]",
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=15, show_default=True, help="At most.")
@click.option("--seconds", default=120.0, show_default=True, help="Of timing, per shape and length.")
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--name", help="Of the result files.  [default: models-THREADS-SHAPES]")
@silence_transformers()
def main(
    shapes: tuple[str, ...],
    lengths: str,
    contenders: tuple[str, ...],
    threads: int,
    turns: int,
    seconds: float,
    memory: bool,
    name: str | None,
) -> None:
    torch.set_num_threads(threads)
    name = name or "-".join(("models", str(threads), *shapes))
    options = Options(tuple(dict.fromkeys(contenders)), threads, turns, seconds, memory, name)
    ceilings = [measure_ceiling(threads)]
    results = []
    for shape in shapes:
        results += bench_model(shape, [int(length) for length in lengths.split(",")], options)
        ceilings.append(measure_ceiling(threads))
    ceiling = {library: max(rates[library] for rates in ceilings) for library in ceilings[0]}
    write_report(options, ceiling, results)


if __name__ == "__main__":
    main()
