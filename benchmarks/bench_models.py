"""Whole-model forward passes: ONNX Runtime on the exported file against transformers eager.

    python -m benchmarks.bench_models [--shape crime] [--contender portable|native] [--threads 2]

Batch 1, float32, all logits. Both run in turns in this process; peak memory is measured afterwards, each in a
process of its own. The outputs are compared once before anything is timed.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np

from benchmarks.contenders import NATIVE, set_up
from benchmarks.models import SHAPES, BenchmarkModel, count_flops, prepare_model, random_inputs
from benchmarks.report import Row, describe_machine, plot_cost_per_token, print_table, write_results
from benchmarks.timing import Comparison, measure_ceiling, time_pairs
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.measure.contenders import Run, open_contender
from reformer_export.measure.memory import Memory, measure_pass

MEDIAN_TOLERANCE: Final = 1e-4
"""On the median over tokens of the largest difference: a bucket that flips on a near-tie changes some tokens,
a wrong model changes all."""

COMPARED_TOKENS: Final = 2048
"""At greater lengths some token nearly always hashes differently on a near-tie and moves the chunks of
every later one: what `reformer-export verify` tells apart, a median does not."""

NOTES: Final = (
    "portable: ONNX Runtime on model.onnx, nothing native registered. native: with the operator library. "
    "eager: transformers, inference mode.",
    "faster: median of eager / ours over neighbouring runs (ratio of the two medians in brackets).",
    "ceiling: share of the best float32 matrix-product rate that ONNX Runtime reached in the same run.",
    "extra memory: peak resident size of one pass in a fresh process, less that after loading.",
    "difference: largest and median-over-tokens difference of the logits; near-ties may hash differently.",
)


@dataclass(frozen=True)
class Result:
    """One shape at one length, `contender` against eager. `differences`: largest, median over tokens."""

    contender: str
    shape: str
    length: int
    flops: float
    times: Comparison
    differences: tuple[float, float]
    memory: dict[str, Memory]

    def to_dict(self) -> dict[str, Any]:
        return {
            "contender": self.contender,
            "shape": self.shape,
            "tokens": self.length,
            "gflop": self.flops / 1e9,
            "seconds": self.times.ours,
            "eager_seconds": self.times.theirs,
            "ratio_of_medians": self.times.ratio_of_medians,
            "median_of_ratios": self.times.median_of_ratios,
            "difference": {"max": self.differences[0], "median": self.differences[1]},
            "memory_bytes": {
                name: {"loaded": m.loaded_bytes, "peak": m.peak_bytes, "extra": m.extra_bytes}
                for name, m in self.memory.items()
            },
        }

    def to_row(self, ceiling: float) -> Row:
        ours, theirs = (statistics.median(seconds) for seconds in (self.times.ours, self.times.theirs))
        row = {
            "shape": self.shape,
            "tokens": f"{self.length:,}",
            f"{self.contender} s": f"{ours:.3f}",
            "eager s": f"{theirs:.3f}",
            "faster": f"{self.times.median_of_ratios:.2f} ({self.times.ratio_of_medians:.2f})",
            "pairs": str(len(self.times.ours)),
            "ceiling": f"{self.flops / ours / 1e9 / ceiling:.0%}",
            "difference": f"{self.differences[0]:.0e}, {self.differences[1]:.0e}",
        }
        for name, memory in self.memory.items():
            row[f"{name} extra MB"] = f"{memory.extra_bytes / 1e6:,.0f}"
        return row


def compare_outputs(ours: Run, eager: Run, model: BenchmarkModel, length: int) -> tuple[float, float]:
    """Largest and median-over-tokens difference of the logits at up to `COMPARED_TOKENS`; warms both up."""
    input_ids = random_inputs(model.spec.vocab_size, min(length, COMPARED_TOKENS))
    by_token = np.abs(ours(input_ids)["logits"] - eager(input_ids)["logits"]).max(axis=-1)
    differences = float(by_token.max()), float(np.median(by_token))
    if not differences[1] <= MEDIAN_TOLERANCE:
        raise click.ClickException(
            f"{model.name} at {length} tokens: got logits that differ by {differences[1]:.1e} for half "
            f"of the tokens, expected at most {MEDIAN_TOLERANCE:.0e}; "
            f"run `reformer-export verify {model.artifact}`"
        )
    return differences


@dataclass(frozen=True)
class Options:
    """What the command line chose; `max_seconds` is per shape and length."""

    contender: str
    threads: int
    max_pairs: int
    max_seconds: float
    memory: bool


def time_model(model: BenchmarkModel, length: int, runs: tuple[Run, Run], options: Options) -> Result:
    """Compare the outputs of `runs` (ours, eager), then time them in turns."""
    ours, eager = runs
    click.echo(f"{model.name}, {length:,} tokens: timing ...", err=True)
    differences = compare_outputs(ours, eager, model, length)
    ids = random_inputs(model.spec.vocab_size, length)
    times = time_pairs(lambda: ours(ids), lambda: eager(ids), options.max_pairs, options.max_seconds)
    return Result(
        options.contender, model.name, length, count_flops(model.spec, length), times, differences, {}
    )


def add_memory(model: BenchmarkModel, result: Result, threads: int) -> Result:
    """`result` with the memory of one pass of each contender, each in a process of its own."""
    click.echo(f"{model.name}, {result.length:,} tokens: measuring memory ...", err=True)
    found = {
        name: measure_pass(set_up(name, model, threads), 1, result.length)
        for name in (result.contender, "eager")
    }
    return dataclasses.replace(result, memory={name: m for name, m in found.items() if m is not None})


def bench_model(model: BenchmarkModel, lengths: list[int], options: Options) -> list[Result]:
    """Compare, time and weigh both contenders at each length."""
    ours, eager = (
        open_contender(set_up(name, model, options.threads)) for name in (options.contender, "eager")
    )
    runs = ours, eager
    results = [time_model(model, length, runs, options) for length in lengths]
    del runs, ours, eager  # their memory goes to the processes below
    if not options.memory:
        return results
    return [add_memory(model, result, options.threads) for result in results]


def write_report(name: str, options: Options, ceiling: dict[str, float], results: list[Result]) -> None:
    """The table on standard output, and benchmarks/results/NAME.{json,md,png}."""
    machine = describe_machine()
    threads = options.threads
    title = f"Whole models, {options.contender} against eager, {threads} thread{'s' * (threads > 1)}"
    rates = ", ".join(f"{library} {rate:.0f}" for library, rate in ceiling.items())
    rows = [result.to_row(ceiling["onnxruntime"]) for result in results]
    print_table(f"{title} (matrix product, GFLOP/s: {rates})", rows)
    data = {"machine": machine, "threads": threads, "ceiling_gflops": ceiling}
    data["results"] = [result.to_dict() for result in results]
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average'][0]}, {machine['date']}"
    )
    versions = ", ".join(f"{library} {version}" for library, version in machine["versions"].items())
    notes = [*NOTES, f"Matrix product, GFLOP/s: {rates}.", f"{where}; {versions}."]
    write_results(name, title, rows, data, notes)
    series: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        for label, seconds in ((result.contender, result.times.ours), ("eager", result.times.theirs)):
            point = (result.length, statistics.median(seconds))
            series.setdefault(f"{result.shape}, {label}", []).append(point)
    plot_cost_per_token(name, title, series)


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), default=list(SHAPES))
@click.option("--lengths", default="1024,4096,16384", show_default=True, help="Tokens, comma-separated.")
@click.option("--contender", type=click.Choice(list(NATIVE)), default="portable", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=15, show_default=True, help="At most.")
@click.option("--seconds", default=60.0, show_default=True, help="Of timing, per shape and length.")
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--name", help="Of the result files.  [default: models-CONTENDER-THREADS]")
@silence_transformers()
def main(
    shapes: tuple[str, ...],
    lengths: str,
    contender: str,
    threads: int,
    pairs: int,
    seconds: float,
    memory: bool,
    name: str | None,
) -> None:
    options = Options(contender, threads, pairs, seconds, memory)
    tokens = [int(length) for length in lengths.split(",")]
    models = [prepare_model(shape) for shape in shapes]
    ceilings = [measure_ceiling(threads)]
    results = []
    for model in models:
        results += bench_model(model, tokens, options)
        ceilings.append(measure_ceiling(threads))
    ceiling = {library: max(rates[library] for rates in ceilings) for library in ceilings[0]}
    write_report(name or f"models-{contender}-{threads}", options, ceiling, results)


if __name__ == "__main__":
    main()
