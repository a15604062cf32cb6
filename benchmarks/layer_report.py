"""What `bench_layers` found: the table, the verdict on the project's targets, and the plot."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.layers import PEERS, Agreement, Layer, count_flops
from benchmarks.report import (
    RESULTS,
    Row,
    describe_machine,
    describe_place,
    describe_run,
    print_table,
    write_results,
)
from benchmarks.timing import Comparison
from reformer_export.libraries.operators import find_native_library

NOTES: Final = (
    "ours: the native kernels through their C interface. hf: transformers' layer, eager, inference mode. "
    "lucidrains: reformer-pytorch's LSHAttention, local-attention's LocalAttention. full: torch's fused "
    "causal attention of all tokens. All on ready projections.",
    "ms: medians. x: times as fast as that contender, the median over neighbouring runs. Full attention of "
    "6 s or more is timed once a length, in that length's first row, and the other rows compare with that.",
    "-: not measured. needs N GB: left out, as that is more than the machine had.",
    "ceiling: ours' share of the best float32 matrix-product rate of the same run; no credit for causality.",
    "MB: extra memory of one run, the peak resident size in a fresh process, output included, less that with "
    "the operands ready.",
    "difference: the largest from transformers on the same rotations and buckets; buckets: how many ours "
    "hashes differently (near-ties).",
)
STYLES: Final = {"ours": "-", "hf": "--", "full": "-"}


@dataclass(frozen=True)
class LayerResult:
    """One layer. `alone` holds the seconds of every run of ours; `times` and `missing` share out the peers:
    timed, or why not. `memory` is extra bytes by contender, None where the process was killed."""

    layer: Layer
    alone: tuple[float, ...]
    times: Mapping[str, Comparison]
    missing: Mapping[str, str]
    agreement: Agreement | None
    memory: Mapping[str, int | None]

    @property
    def seconds(self) -> float:
        """Ours, the median."""
        return statistics.median(self.alone)

    @property
    def memory_ratio(self) -> float | None:
        """Extra bytes of transformers over ours."""
        theirs, ours = self.memory.get("hf"), self.memory.get("ours")
        return None if theirs is None or ours is None else theirs / max(ours, 1)

    def speedup(self, peer: str) -> float | None:
        """How many times as fast as `peer` ours is."""
        return self.times[peer].median_of_ratios if peer in self.times else None

    def to_dict(self, ceiling: float) -> dict[str, Any]:
        flops = count_flops(self.layer)
        return {
            "kind": self.layer.kind,
            "tokens": self.layer.length,
            "num_hashes": self.layer.num_hashes,
            "num_buckets": list(self.layer.num_buckets) if self.layer.kind == "lsh" else None,
            "gflop": flops / 1e9,
            "ceiling_share": flops / self.seconds / 1e9 / ceiling,
            "ours_seconds": self.alone,
            "peers": {
                peer: {
                    "seconds": times.theirs,
                    "ours_seconds": times.ours,
                    "median_of_ratios": times.median_of_ratios,
                }
                for peer, times in self.times.items()
            },
            "not_timed": dict(self.missing),
            "extra_memory_bytes": dict(self.memory),
            "agreement": None if self.agreement is None else vars(self.agreement),
        }

    def to_row(self, ceiling: float) -> Row:
        row = {
            "layer": self.layer.kind,
            "tokens": f"{self.layer.length:,}",
            "hashes": str(self.layer.num_hashes or "-"),
            "ours ms": _milliseconds(self.seconds),
            "ceiling": f"{count_flops(self.layer) / self.seconds / 1e9 / ceiling:.0%}",
        }
        for peer in PEERS:
            times = self.times.get(peer)
            row[f"{peer} ms"] = (
                _milliseconds(statistics.median(times.theirs)) if times else self.missing[peer]
            )
            row[f"x {peer}"] = f"{times.median_of_ratios:.2f}" if times else "-"
        for name in ("ours", *PEERS):
            if any(self.memory):
                used = self.memory.get(name)
                killed = "killed" if name in self.memory else "-"
                row[f"{name} MB"] = killed if used is None else f"{used / 1e6:,.1f}"
        row["difference"] = f"{self.agreement.difference:.0e}" if self.agreement else "-"
        row["buckets"] = str(self.agreement.buckets_changed) if self.agreement else "-"
        return row


def judge_targets(results: Sequence[LayerResult]) -> list[Row]:
    """The targets that concern single layers, each against what was measured."""
    found = {(result.layer.length, result.layer.num_hashes): result for result in results}
    rows = []
    for hashes in (1, 4, 8):
        result = found.get((16384, hashes))
        speedup = result and result.speedup("hf")
        what = f"LSH, 16,384 tokens, {hashes} hash{'es' * (hashes > 1)}: transformers' time / ours"
        rows.append(_verdict(what, 6, [(f"{speedup:.2f}", speedup)] if speedup else []))
    for hashes in (1, 4, 8):
        result = found.get((16384, hashes))
        ratio = result and result.memory_ratio
        what = f"LSH, 16,384 tokens, {hashes} hash{'es' * (hashes > 1)}: transformers' extra memory / ours"
        rows.append(_verdict(what, 10, [(f"{ratio:.1f}", ratio)] if ratio else []))
    for hashes, shortest in ((1, 2048), (4, 8192)):
        measured = [
            (f"{speedup:.2f} at {length:,}", speedup)
            for (length, rounds), result in sorted(found.items())
            if rounds == hashes and length >= shortest and (speedup := result.speedup("full")) is not None
        ]
        if not any(text.endswith(f" {shortest:,}") for text, _ in measured):
            measured = []
        what = (
            f"LSH, from {shortest:,} tokens, {hashes} hash{'es' * (hashes > 1)}: full attention's time / ours"
        )
        rows.append(_verdict(what, 1, measured))
    return rows


def write_report(
    name: str, threads: int, ceiling: Mapping[str, float], results: Sequence[LayerResult]
) -> None:
    """The tables on standard output, and benchmarks/results/NAME.{json,md,png}."""
    machine = describe_machine()
    for package in ("reformer-pytorch", "local-attention"):
        if version := _installed_version(package):
            machine["versions"][package] = version
    best = max(ceiling.values())
    rows = [result.to_row(best) for result in results]
    verdicts = judge_targets(results)
    title = f"One attention layer, {threads} thread{'s' * (threads > 1)}, {describe_place(machine)}"
    rates = ", ".join(f"{library} {rate:.0f}" for library, rate in ceiling.items())
    print_table(f"{title} (matrix product, GFLOP/s: {rates})", rows)
    print_table("Targets", verdicts)
    library = str(find_native_library("on"))
    data = {"machine": machine, "library": library, "threads": threads, "ceiling_gflops": dict(ceiling)}
    data |= {"targets": verdicts, "results": [result.to_dict(best) for result in results]}
    targets = [
        f"Target: {row['target']}: {row['measured']}, required {row['required']}: {row['verdict']}."
        for row in verdicts
    ]
    notes = [*targets, *NOTES, f"Matrix product, GFLOP/s: {rates}.", f"Library {library}."]
    write_results(name, title, rows, data, [*notes, describe_run(machine)])
    plot_layers(name, f"{title}: cost of a token", results)


def plot_layers(name: str, title: str, results: Sequence[LayerResult]) -> None:
    """NAME.png: nanoseconds a token over length, as in the paper's figure 5: ours, transformers, full."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    hashes = sorted({result.layer.num_hashes for result in results})
    colours = {rounds: f"C{index}" for index, rounds in enumerate(hashes)}
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for (contender, rounds), points in _cost_series(results).items():
        layer = f"LSH, {rounds} hash{'es' * (rounds > 1)}" if rounds else "local"
        label = "full attention" if contender == "full" else f"{layer}, {contender}"
        colour = "black" if contender == "full" else colours[rounds]
        axes.plot(
            *zip(*points, strict=True), STYLES[contender], marker="o", markersize=4, color=colour, label=label
        )
    lengths = sorted({result.layer.length for result in results})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set(xlabel="tokens", ylabel="nanoseconds per token", title=title)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(RESULTS / f"{name}.png", dpi=150)
    pyplot.close(figure)


def _cost_series(results: Sequence[LayerResult]) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """(tokens, nanoseconds per token) by contender and hashes; full attention has no hashes: one line."""
    series: dict[tuple[str, int], list[tuple[int, float]]] = {}
    full: dict[int, float] = {}
    for result in results:
        layer = result.layer
        seconds = {"ours": result.seconds}
        if "hf" in result.times:
            seconds["hf"] = statistics.median(result.times["hf"].theirs)
        for contender, value in seconds.items():
            point = (layer.length, 1e9 * value / layer.length)
            series.setdefault((contender, layer.num_hashes), []).append(point)
        if "full" in result.times and layer.length not in full:
            full[layer.length] = 1e9 * statistics.median(result.times["full"].theirs) / layer.length
    if full:
        series["full", 0] = sorted(full.items())
    return series


def _verdict(target: str, required: float, measured: Sequence[tuple[str, float]]) -> Row:
    met = all(value >= required for _, value in measured)
    return {
        "target": target,
        "required": f"at least {required}",
        "measured": ", ".join(text for text, _ in measured) or "-",
        "verdict": ("met" if met else "MISSED") if measured else "not measured",
    }


def _milliseconds(seconds: float) -> str:
    """Three significant digits."""
    digits = max(0, 2 - math.floor(math.log10(1e3 * seconds)))
    return f"{1e3 * seconds:,.{digits}f}"


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
