"""One LSH and one local layer: ours against transformers, lucidrains and full attention.

    python -m benchmarks.bench_layers --threads 2 [--lengths 4096,16384] [--hashes 1,4] [--no-memory]

The operators only, on ready projections: 8 heads x 64, chunks of 64, causal, batch 1, float32. Contenders run
in turns in this process, ours before each; peak memory is measured in processes of their own. Each layer's
output is compared with transformers' on the same rotations and buckets; a wrong one ends the run.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import click
import torch

from benchmarks.layer_memory import available_bytes, measure_extra_bytes
from benchmarks.layer_report import LayerResult, write_report
from benchmarks.layers import (
    CONTENDERS,
    PEERS,
    Agreement,
    Layer,
    Ours,
    compare_with_huggingface,
    estimate_bytes,
    has_lucidrains,
)
from benchmarks.timing import Comparison, measure_ceiling
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.errors import ReformerExportError
from reformer_export.measure.timing import PAUSE_SECONDS, time_once

LENGTHS: Final = "1024,2048,4096,8192,16384,65536"
CROSSING_LENGTHS: Final = (2048, 8192)
"""Lengths at which only full attention is timed, to see where ours gets faster."""

MIN_TURNS, MAX_TURNS = 3, 8
SLOW_SECONDS: Final = 6.0
"""A run this long is measured once. Full attention this slow is timed once a length: hashes do not change it;
and slow peers other than transformers are not run again for their memory."""

KEPT_SECONDS: Final = 1.0
"""A first run this long counts as a turn: what warms up is lost in it."""

LIMIT_OF_MEMORY: Final = 0.9
"""Share of the available memory that a contender may be expected to need."""

NOT_TIMED: Final = "-"

Run = Callable[[], Any]


def choose_turns(first: float, seconds: float) -> int:
    """How often to run a contender whose first run took `first` seconds, within about `seconds`."""
    if first >= SLOW_SECONDS:
        return 1
    return max(MIN_TURNS, min(MAX_TURNS, round(seconds / first)))


def choose_peers(layer: Layer, full_seconds: dict[int, float]) -> tuple[list[str], dict[str, str]]:
    """Peers to run, and why the others are not."""
    missing: dict[str, str] = {}
    for peer in PEERS:
        needed = estimate_bytes(peer, layer)
        if layer.length in CROSSING_LENGTHS and peer != "full":
            missing[peer] = NOT_TIMED
        elif peer == "lucidrains" and not has_lucidrains():
            missing[peer] = "not installed"
        elif peer == "full" and layer.length in full_seconds:
            missing[peer] = "timed before"
        elif peer != "full" and needed > LIMIT_OF_MEMORY * available_bytes():
            missing[peer] = f"needs {needed / 1e9:.3g} GB"
    return [peer for peer in PEERS if peer not in missing], missing


def time_pair(ours: Run, theirs: Run, pairs: list[tuple[float, float]]) -> Any:
    """Run ours, then theirs; add their seconds to `pairs` and return what theirs returned."""
    time.sleep(PAUSE_SECONDS)
    seconds = time_once(ours)
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    result = theirs()
    pairs.append((seconds, time.perf_counter() - start))
    return result


def check_agreement(ours: Ours, output: Any) -> Agreement:
    """Its times would mean nothing if the layer were wrong."""
    agreement = compare_with_huggingface(ours, output)
    if not agreement.holds:
        raise click.ClickException(
            f"{ours.layer.name}: got {agreement}, expected a difference of at most "
            f"{Agreement.OUTPUT_TOLERANCE:.0e} from transformers; run the operators' tests"
        )
    return agreement


def time_peers(ours: Ours, peers: list[str], seconds: float) -> tuple[dict[str, Comparison], Any]:
    """Each peer's turns, and what transformers returned in its first; None when it is no peer."""
    runs = {peer: CONTENDERS[peer](ours.layer) for peer in peers}
    pairs: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}
    turns, output = {}, None
    for peer in peers:
        result = time_pair(ours, runs[peer], pairs[peer])
        output = result if peer == "hf" else output
        del result
        first = pairs[peer][0][1]
        turns[peer] = choose_turns(first, seconds)
        if first < KEPT_SECONDS:
            pairs[peer].clear()
    while waiting := [peer for peer in peers if len(pairs[peer]) < turns[peer]]:
        for peer in waiting:
            time_pair(ours, runs[peer], pairs[peer])
    return {peer: Comparison(*zip(*pairs[peer], strict=True)) for peer in peers}, output


def time_layer(layer: Layer, seconds: float, full_seconds: dict[int, float]) -> LayerResult:
    """Time all contenders and compare; `full_seconds` keeps full attention's slow times by length."""
    ours = Ours(layer)
    peers, missing = choose_peers(layer, full_seconds)
    alone = [time_once(ours) for _ in range(1 + MIN_TURNS)][1:]
    times, output = time_peers(ours, peers, seconds)
    alone += [second for comparison in times.values() for second in comparison.ours]
    if missing.get("hf") == NOT_TIMED:
        output = CONTENDERS["hf"](layer)()
    agreement = None if output is None else check_agreement(ours, output)
    if missing.pop("full", None):
        times["full"] = Comparison((statistics.median(alone),), (full_seconds[layer.length],))
    elif (full := statistics.median(times["full"].theirs)) >= SLOW_SECONDS:
        full_seconds[layer.length] = full
    return LayerResult(layer, tuple(alone), times, missing, agreement, {})


def add_memory(result: LayerResult, threads: int) -> LayerResult:
    """`result` with the extra bytes of the contenders that are quick enough to run again."""
    quick = [
        peer
        for peer, times in result.times.items()
        if peer == "hf" or statistics.median(times.theirs) < SLOW_SECONDS
    ]
    memory = {name: measure_extra_bytes(name, result.layer, threads) for name in ("ours", *quick)}
    return dataclasses.replace(result, memory=memory)


def bench_length(
    length: int, hashes: list[int], threads: int, seconds: float, memory: bool
) -> list[LayerResult]:
    """LSH layers with each number of hashes, then a local one."""
    layers = [*(Layer("lsh", length, rounds) for rounds in hashes), Layer("local", length, 0)]
    full_seconds: dict[int, float] = {}
    results = []
    for layer in layers:
        start = time.perf_counter()
        click.echo(f"{layer.name} ...", err=True, nl=False)
        result = time_layer(layer, seconds, full_seconds)
        results.append(add_memory(result, threads) if memory else result)
        click.echo(f" {time.perf_counter() - start:.0f} s", err=True)
    return results


def _numbers_from_text(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"got {text!r}, expected whole numbers with commas between") from None


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--lengths", default=LENGTHS, show_default=True, callback=_numbers_from_text, help="Multiples of 128."
)
@click.option(
    "--hashes", default="1,2,4,8", show_default=True, callback=_numbers_from_text, help="Comma-separated."
)
@click.option("--seconds", default=6.0, show_default=True, help="Of timing, about, per contender and row.")
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--name", help="Of the result files.  [default: layers-THREADS]")
@silence_transformers()
def main(
    threads: int, lengths: list[int], hashes: list[int], seconds: float, memory: bool, name: str | None
) -> None:
    torch.set_num_threads(threads)
    ceilings, results = [measure_ceiling(threads)], []
    try:
        for length in lengths:
            results += bench_length(length, hashes, threads, seconds, memory)
            ceilings.append(measure_ceiling(threads))
    except (ReformerExportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    ceiling = {library: max(rates[library] for rates in ceilings) for library in ceilings[0]}
    write_report(name or f"layers-{threads}", threads, ceiling, results)


if __name__ == "__main__":
    main()
