"""Tokens a second over context length: the artifact's steps beside whole passes and eager, and targets.

    python -m benchmarks.bench_decode [--model crime] [--seconds 15] [--processor-time]

float32, the native kernels, the shipped model and the crime shape with random weights; one and 16 sequences
at once, one and two threads, random tokens. Contenders run in turns of 8 steps; peers are whole passes of the
same artifact, and eager on its own cache (which gives other numbers) and without. A prompt's logits are
compared with model.onnx's first, and a sequence in a batch with itself alone. Then one sequence grows by
10,000 tokens. Five to ten minutes on a quiet machine with two cores; on a shared one `--processor-time`
counts what the processor did for it, with one thread.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from benchmarks.contenders import set_up
from benchmarks.decode_targets import Target, count_threads, find_step, find_targets
from benchmarks.decode_timing import (
    CONTEXTS,
    GROWN,
    MARKS,
    THREADS,
    Measured,
    Plan,
    Point,
    Timing,
    grow_long,
    open_runtimes,
    time_context,
    time_peers,
)
from benchmarks.models import BenchmarkModel, prepare_model
from benchmarks.report import (
    Row,
    describe_machine,
    describe_run,
    plot_tokens_per_second,
    print_table,
    write_results,
)
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.measure.decoders import DecodeSetup
from reformer_export.measure.decoding_memory import DecodeMemory, measure_decoding

LABELS: Final = {
    "artifact": "steps",
    "artifact-passes": "whole passes",
    "eager-passes": "eager, whole passes",
    "eager-cache": "eager with its cache (other numbers)",
}


def measure_model(model: BenchmarkModel, plan: Plan) -> Measured:
    """Everything of one model."""
    contexts = CONTEXTS[model.name]
    runtimes = open_runtimes(model, plan.threads)
    timings: dict[Point, Timing] = {}
    over_first: dict[Point, float] = {}
    memories: dict[tuple[str, int], DecodeMemory | None] = {}
    growth = {}
    if model.spec.max_length > GROWN:
        click.echo(f"{model.name}: growing by {GROWN:,} tokens ...", err=True)
        growth = {count: grow_long(model, count, plan) for count in plan.threads}
    for length in contexts:
        click.echo(f"{model.name}, {length:,} tokens: timing ...", err=True)
        batches = [batch for batch in plan.batches if batch == 1 or length <= plan.longest_batch]
        pairs = itertools.product(batches, plan.threads)
        points = [Point("artifact", count, batch, length) for batch, count in pairs]
        controls = [Point("artifact", count, 1, contexts[0]) for count in plan.threads]
        wanted = list(dict.fromkeys([*controls, *points]))
        found = time_context(model, runtimes, wanted, plan)
        for point in points:
            control = found[Point("artifact", point.threads, 1, contexts[0])]
            ratios = zip(found[point].turns, control.turns, strict=True)
            over_first[point] = statistics.median(ours / first for ours, first in ratios)
            timings[point] = found[point]
        if length <= plan.longest_peers:
            peers = time_peers(model, length, plan)
            timings |= {point: timing for point, timing in peers.items() if point.contender != "artifact"}
        click.echo(f"{model.name}, {length:,} tokens: measuring memory ...", err=True)
        for name, contender in (("artifact", "native"), ("eager-cache", "eager")):
            if name != "artifact" and length > plan.longest_peers:
                continue
            setup = DecodeSetup(name, set_up(contender, model, max(plan.threads)))  # type: ignore[arg-type]
            memories[name, length] = measure_decoding(setup, 1, length)
    return Measured(model.name, timings, over_first, memories, growth)


def list_rows(measured: Measured) -> list[Row]:
    """A line for each point, by context."""
    rows: list[Row] = []
    for point, timing in measured.timings.items():
        memory = measured.memories.get((point.contender, point.length))
        most = max(each.threads for each in measured.timings)
        shown = memory if point.batch == 1 and point.threads == most else None
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


def list_summary(measured: Measured) -> list[Row]:
    """Tokens a second of everybody by context: the artifact's with the better number of threads."""

    def rate(contender: str, batch: int, length: int) -> str:
        points = [Point(contender, count, batch, length) for count in THREADS]
        rates = [batch / measured.timings[point].median for point in points if point in measured.timings]
        if not rates:
            return ""
        return f"{max(rates):,.0f}" if max(rates) >= 10 else f"{max(rates):.2g}"

    return [
        {
            "model, context": f"{measured.model}, {length:,}",
            "steps": rate("artifact", 1, length),
            "16 at once": rate("artifact", 16, length),
            "whole passes": rate("artifact-passes", 1, length),
            "eager with its cache (other numbers)": rate("eager-cache", 1, length),
            "eager, whole passes": rate("eager-passes", 1, length),
        }
        for length in CONTEXTS[measured.model]
    ]


def list_series(measured: Measured) -> dict[str, list[tuple[int, float]]]:
    """Tokens a second over context, with the better number of threads, by label."""
    series: dict[str, dict[int, float]] = {}
    for point, timing in measured.timings.items():
        many = "" if point.batch == 1 else f", {point.batch} at once"
        points = series.setdefault(f"{LABELS[point.contender]}{many}", {})
        rate = point.batch / timing.median
        points[point.length] = max(rate, points.get(point.length, 0.0))
    return {label: list(points.items()) for label, points in series.items()}


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
                "seconds_around": {str(mark): find_step(growth, mark) for mark in MARKS},
                "resident_bytes": growth.resident,
                "cache_bytes": growth.caches,
            }
            for threads, growth in measured.growth.items()
        },
    }


def list_notes(
    found: Sequence[Measured], targets: Sequence[Target], before: Mapping[str, Any], plan: Plan
) -> list[str]:
    """What the table's words mean, the growth, the targets and the machine."""
    clock = ["Times are the processor's: the machine was shared."] if plan.processor_time else []
    notes = [
        *clock,
        "steps: decode.onnx in ONNX Runtime on native kernels; peers: one sequence. In turns of 8 steps, "
        "or of one pass where there is no cache; medians, and the best.",
        "eager with its cache gives other numbers than its own whole pass, and wrong ones in a batch.",
        "x of one at the first: over one sequence's step at the first context, the median over turns.",
        "cache: bytes of the caches; held: resident memory beyond the loaded model, in a process of its own.",
    ]
    for measured in found:
        for threads, growth in measured.growth.items():
            times = " and ".join(
                f"{1e3 * find_step(growth, mark)[0]:.2f} ms around step {mark:,}" for mark in MARKS
            )
            held = (growth.resident[1] - growth.resident[0]) / 1e6
            caches = (growth.caches[1] - growth.caches[0]) / 1e6
            notes.append(
                f"{measured.model}, one sequence that grows by {len(growth.seconds):,} tokens, "
                f"{count_threads(threads)}: {times}; from step {MARKS[0]} on memory grew by {held:.1f} MB, "
                f"the caches by {caches:.1f} MB."
            )
    notes += map(str, targets)
    return [*notes, describe_run(describe_machine(), before)]


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, type=click.Choice(list(CONTEXTS)), default=list(CONTEXTS))
@click.option("--seconds", default=15.0, show_default=True, help="Of timing, at each context, twice.")
@click.option("--longest-peers", default=Plan.longest_peers, help="Context, in tokens.  [default: all]")
@click.option("--longest-batch", default=Plan.longest_batch, help="Context, in tokens.  [default: all]")
@click.option(
    "--processor-time", is_flag=True, help="In place of the wall's, one thread: where the machine is shared."
)
@click.option("--name", default="decode", show_default=True, help="Of the result files.")
@silence_transformers()
def main(
    models: tuple[str, ...],
    seconds: float,
    longest_peers: int,
    longest_batch: int,
    processor_time: bool,
    name: str,
) -> None:
    plan = Plan(
        threads=(1,) if processor_time else THREADS,
        seconds=seconds,
        longest_peers=longest_peers,
        longest_batch=longest_batch,
        processor_time=processor_time,
    )
    before = describe_machine()
    artifacts = {model: prepare_model(model, decode=True) for model in models}
    measured = {model: measure_model(each, plan) for model, each in artifacts.items()}
    targets = find_targets(measured)
    rows = [row for each in measured.values() for row in list_rows(each)]
    title = "Decoding: tokens a second over context"
    summary = [row for each in measured.values() for row in list_summary(each)]
    print_table(title, rows)
    print_table("Tokens a second", summary)
    for target in targets:
        click.echo(str(target))
    reached = [{**vars(target), "reached": target.reached} for target in targets]
    data = {
        "machine": before,
        "plan": vars(plan),
        "targets": reached,
        "results": [describe(each) for each in measured.values()],
    }
    notes = list_notes(list(measured.values()), targets, before, plan)
    write_results(name, title, rows, data, notes, summary)
    plot_tokens_per_second(name, {model: list_series(each) for model, each in measured.items()})


if __name__ == "__main__":
    main()
