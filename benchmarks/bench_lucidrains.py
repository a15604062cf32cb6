"""A model of reformer-pytorch and one LSH layer of it: the exported file against the package, unpatched.

    python -m benchmarks.bench_lucidrains [--threads 2] [--lengths 1024,4096,16384] [--no-portable]
    python -m benchmarks.bench_lucidrains --threads 1 --cpu-time        # where the machine is busy

Causal, 6 layers, dim 512, 8 heads x 64, buckets of 64 tokens, 4 hashes, rotary positions, TrainingWrapper;
batch 1, float32, all logits. Contenders run in turns in this process. Before anything is timed the file's
results are compared with eager's on the same rotations.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np
import torch

from benchmarks.lucidrains import (
    ENDS,
    KEYWORDS,
    PARTS,
    Inputs,
    RunOfFile,
    draw_inputs,
    open_file,
    place,
    prepare_model,
    run_of_eager,
)
from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from benchmarks.timing import measure_ceiling
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.measure.node_times import OperatorTime, measure_node_times
from reformer_export.measure.timing import median_ratio, time_in_turns
from reformer_export.reference.lucidrains import EagerLucidrains

TOLERANCE: Final = 1e-4
"""On the median over tokens of the largest difference, see bench_models."""

JUDGED: Final = 4096
"""Tokens: of a longer sequence through all layers some near-ties hash differently and move every later token,
so that `verify`, which pins the hashes, is the judge of the model there."""

TARGET: Final = ("attention", 16384, 6.0)

GROUPS: Final = {
    "dense products": ("MatMul", "Gemm", "FusedMatMul", "Gemm+Gelu"),
    "LSHAttention": ("LSHAttention",),
    "LSHBuckets": ("LSHBuckets",),
}

NOTES: Final = (
    "attention: one layer's LSHAttention on ready projections: the hash, the turn by rotary positions, the "
    "sort, and attention. layer: its LSHSelfAttention, with the projections before and after. model: "
    f"ReformerLM, {KEYWORDS['depth']} layers.",
    "native: ONNX Runtime on the file's own nodes, with the operator library; portable: without it. eager: "
    "the package, unpatched, inference mode, the same threads.",
    "x: eager's time / ours, the median over turns, in each of which all contenders run once; spread: its "
    "quartiles. A wide one says that the machine was busy.",
    "difference: the median over tokens of the largest difference from eager on the artifact's rotations, "
    "each hashing for itself.",
)


@dataclass(frozen=True)
class Result:
    """One part at one length: seconds of each turn by contender ("eager" among them), and the difference."""

    part: str
    length: int
    seconds: dict[str, tuple[float, ...]]
    difference: float

    def ratio(self, contender: str) -> float:
        """How many times as fast as eager."""
        return median_ratio(self.seconds["eager"], self.seconds[contender])

    def spread(self, contender: str) -> tuple[float, float]:
        """The quartiles of the turns' ratios."""
        ratios = np.divide(self.seconds["eager"], self.seconds[contender])
        low, high = np.percentile(ratios, (25, 75))
        return float(low), float(high)

    def to_row(self) -> Row:
        row = {"part": self.part, "tokens": f"{self.length:,}"}
        row["eager ms"] = f"{statistics.median(self.seconds['eager']) * 1e3:,.1f}"
        for name in (name for name in self.seconds if name != "eager"):
            row[f"{name} ms"] = f"{statistics.median(self.seconds[name]) * 1e3:,.1f}"
            low, high = self.spread(name)
            row[f"x {name}"] = f"{self.ratio(name):.2f} ({low:.2f} to {high:.2f})"
        return row | {"turns": str(len(self.seconds["eager"])), "difference": f"{self.difference:.0e}"}

    def to_dict(self) -> dict[str, Any]:
        ours = [name for name in self.seconds if name != "eager"]
        return {
            "part": self.part,
            "tokens": self.length,
            "seconds": self.seconds,
            "median_of_ratios": {name: self.ratio(name) for name in ours},
            "quartiles": {name: self.spread(name) for name in ours},
            "median_difference": self.difference,
        }


@dataclass(frozen=True)
class Bench:
    """What the command line chose, and what it opened: the file's parts by contender."""

    eager: EagerLucidrains
    files: dict[str, dict[str, RunOfFile]]
    max_turns: int
    max_seconds: float
    clock: Callable[[], float]

    def measure(self, inputs: Inputs) -> list[Result]:
        return [self._measure_part(part, inputs) for part in PARTS]

    def _measure_part(self, part: str, inputs: Inputs) -> Result:
        length = inputs.ids.shape[1]
        click.echo(f"{part}, {length:,} tokens ...", err=True)
        differences = [_compare(part, run[part], inputs) for run in self.files.values()]
        runs = {"eager": run_of_eager(self.eager, part, inputs)}
        for name, run in self.files.items():
            runs[name] = functools.partial(run[part], inputs)
        runs["eager"]()  # the others ran when they were compared
        seconds = time_in_turns(runs, self.max_turns, self.max_seconds, clock=self.clock)
        return Result(part, length, seconds, max(differences))


def _compare(part: str, run: RunOfFile, inputs: Inputs) -> float:
    expected = inputs.logits if part == "model" else inputs.values[ENDS[part][1]]
    by_token = np.abs(run(inputs).reshape(expected.shape) - expected).max(axis=-1)
    difference = float(np.median(by_token))
    is_judged = part != "model" or inputs.ids.shape[1] <= JUDGED
    if is_judged and not difference <= TOLERANCE:
        raise click.ClickException(
            f"{part} at {inputs.ids.shape[1]} tokens: got a difference of {difference:.1e} for half of the "
            f"tokens, expected at most {TOLERANCE:.0e}; run `reformer-export verify` on the artifact"
        )
    return difference


def group_times(operators: tuple[OperatorTime, ...]) -> dict[str, float]:
    """Seconds of one pass by `GROUPS`, and of the rest."""
    groups = {
        name: sum(each.seconds for each in operators if each.operator in members)
        for name, members in GROUPS.items()
    }
    return groups | {"rest": sum(each.seconds for each in operators) - sum(groups.values())}


def describe_limit(groups: dict[str, float], result: Result, length: int) -> str:
    """Where a pass of the model spends its time, and how fast it could be with nothing but the products."""
    total = sum(groups.values())
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in groups.items())
    products = groups["dense products"] / total
    return (
        f"Where one pass of the model over {length:,} tokens goes, natively, by ONNX Runtime's profiler: "
        f"{shares}. The products are the same in eager: with nothing else to do, it would be "
        f"{result.ratio('native') / products:.1f} x."
    )


@dataclass(frozen=True)
class Options:
    """What was run: the threads of each contender, whether the processor's clock timed them, and the name of
    the result files."""

    threads: int
    cpu_time: bool
    name: str

    @property
    def title(self) -> str:
        clock = ", processor seconds" * self.cpu_time
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"A model of reformer-pytorch against the package, {threads}{clock}"


def write_report(options: Options, results: list[Result], groups: dict[str, float], ceiling: float) -> None:
    """The table on standard output, and benchmarks/results/NAME.{json,md}."""
    machine = describe_machine()
    rows = [result.to_row() for result in results]
    print_table(options.title, rows)
    longest = results[-1]
    notes = [*NOTES, describe_limit(groups, longest, longest.length), _judge_target(results)]
    notes += [f"Matrix product {ceiling:.0f} GFLOP/s.", describe_run(machine)]
    for note in notes[len(NOTES) :]:
        click.echo(note)
    data = {"machine": machine, "threads": options.threads, "cpu_time": options.cpu_time}
    data |= {"ceiling_gflops": ceiling, "keywords": KEYWORDS, "model_pass_seconds": groups}
    data |= {"results": [result.to_dict() for result in results]}
    write_results(options.name, options.title, rows, data, notes)


def _judge_target(results: list[Result]) -> str:
    part, length, least = TARGET
    found = [each.ratio("native") for each in results if (each.part, each.length) == (part, length)]
    what = f"Target: {part} of one layer, {length:,} tokens: at least {least:g} x eager"
    if not found:
        return f"{what}: not run."
    return f"{what}: {found[0]:.2f}, {'met' if found[0] >= least else 'missed'}."


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--lengths", default="1024,4096,16384", show_default=True, help="Comma-separated.")
@click.option("--turns", type=click.IntRange(1), default=15, show_default=True, help="At most.")
@click.option("--seconds", default=60.0, show_default=True, help="Of timing, about, per row.")
@click.option(
    "--cpu-time",
    is_flag=True,
    help="Processor seconds in place of the wall's: for a machine that is busy, with --threads 1.",
)
@click.option("--portable/--no-portable", default=True, show_default=True, help="Also without the library.")
@click.option("--name", help="Of the result files.  [default: lucidrains-THREADS, with -cpu for --cpu-time]")
def main(
    threads: int,
    lengths: str,
    turns: int,
    seconds: float,
    cpu_time: bool,
    portable: bool,
    name: str | None,
) -> None:
    torch.set_num_threads(threads)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if not cpu_time and load > cores / 2:
        click.echo(
            f"The machine is busy (load {load:.1f} on {cores} cores). Eager's many small operations wait for "
            "each other longer than ours: the factors will be too large. Try --threads 1 --cpu-time.",
            err=True,
        )
    model = prepare_model()
    eager = EagerLucidrains(model.checkpoint, model.manifest)
    contenders = ("native", "portable") if portable else ("native",)
    files = {name: open_file(model, name, threads) for name in contenders}
    clock = time.process_time if cpu_time else time.perf_counter
    bench = Bench(eager, files, turns, seconds, clock)
    tokens = sorted(int(length) for length in lengths.split(","))
    results = [result for length in tokens for result in bench.measure(draw_inputs(eager, length))]
    placement = place("native", threads)
    nodes = measure_node_times(model.artifact / MODEL_NAME, model.manifest, tokens[-1], placement)
    ceiling = measure_ceiling(threads)["onnxruntime"]
    options = Options(threads, cpu_time, name or f"lucidrains-{threads}{'-cpu' * cpu_time}")
    write_report(options, results, group_times(nodes.operators), ceiling)


if __name__ == "__main__":
    main()
