"""A benchmark as a page: is the artifact faster, by how much, and where the time goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.report.curves import Points, curves_by_batch, tell_longest
from reformer_export.report.figures import Drawing, draw, paint_bars, paint_series
from reformer_export.report.page import Page, Section, Verdict
from reformer_export.report.ranges import describe_range, write_ratio
from reformer_export.report.tables import Columns, Table, make_table, measurements_table

if TYPE_CHECKING:
    from reformer_export.measure.node_times import NodeTimes, OperatorTime
    from reformer_export.measure.run import BenchmarkResult, Measurement

ARTIFACT: Final = "artifact"
EAGER: Final = "eager"
FULL_ATTENTION: Final = "full-attention"
CONTENDERS: Final = {
    "artifact": "this artifact",
    "eager": "the unpatched model of its own package in torch, which the artifact replaces",
    "full-attention": "another model, for orientation: of the same shapes, but every token attends to all "
    "tokens; in torch, on random weights",
}
"""What each is, in words."""

MAX_BARS: Final = 12


@dataclass(frozen=True)
class BenchReport:
    """The measurements of the artifact in `folder`; `runtime` says in words what ran it.

    `nodes` is None where nobody asked for them, or ONNX Runtime cannot tell; `with_nodes`: somebody asked.
    """

    folder: Path
    manifest: Manifest
    runtime: str
    result: BenchmarkResult
    nodes: NodeTimes | None = None
    with_nodes: bool = False

    def table(self) -> Table:
        """Every measurement."""
        return measurements_table(f"{self.folder} ({self.runtime}, {self.manifest.precision})", self.result)

    def verdict(self) -> Verdict:
        """The artifact against eager, which it replaces."""
        return _verdict(self.result)

    def describe_passes(self) -> str:
        """How the times were taken."""
        passes = describe_range((len(row.seconds) for row in self.result.measurements), str)
        return (
            f"over {passes} passes of each, in turns; a ratio is the median over the turns, a percentile is "
            "left out where fewer passes were made than it takes (10 for p90, 100 for p99)"
        )

    def describe_contenders(self) -> list[str]:
        """What each of those measured is."""
        return [
            f"{setup.name} ({setup.device}, {setup.dtype}): {CONTENDERS[setup.name]}"
            for setup in self.result.setups
        ]

    def describe_machine(self) -> str:
        """Where it was measured."""
        return self.result.machine.describe()

    def page(self) -> Page:
        """For people who decide."""
        return page_from_bench(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; latencies in milliseconds, memory in bytes."""
        values = {
            "artifact": str(self.folder),
            "model_sha256": self.manifest.files[MODEL_NAME],
            "dtype": self.manifest.dtype,
            "precision": self.manifest.precision,
            "runtime": self.runtime,
            **self.result.to_dict(),
        }
        if self.with_nodes:
            nodes = None if self.nodes is None else dataclasses.asdict(self.nodes)
            values |= {"nodes": nodes, "manifest": self.manifest.to_dict()}
        return values


def page_from_bench(report: BenchReport) -> Page:
    """A page on a benchmark."""
    result = report.result
    time = _draw_batches(
        result, "time", "Median latency", "latency (ms)", lambda row: row.latency.p50, _tell_latency
    )
    sections = [
        Section("time", "Time", drawings=time),
        *([_memory_section(result)] if result.memory_measured else []),
        *([_nodes_section(report.nodes)] if report.nodes else []),
        Section("table", "Every measurement", tables=[report.table()]),
        Section("about", "How it was measured", _about(report), manifest=report.manifest),
    ]
    return Page(f"How fast is {report.folder}?", sections, report.verdict())


def _verdict(result: BenchmarkResult) -> Verdict:
    lengths = sorted({row.length for row in result.measurements})
    where = (
        f"at {lengths[0]:,} to {lengths[-1]:,} tokens" if len(lengths) > 1 else f"at {lengths[0]:,} tokens"
    )
    named = {row.name for row in result.measurements}
    beside = _tell_full_attention(result) if FULL_ATTENTION in named else ""
    doubt = " The times are unsteady: see the notes." if result.unsteady else ""
    if EAGER not in named:
        fastest = max(row.tokens_per_second for row in result.measurements if row.name == ARTIFACT)
        reason = f"The most, {where}. Eager, which it replaces, was not measured beside it.{beside}{doubt}"
        return Verdict(None, f"{fastest:,.0f} tokens a second", reason)
    ratios = _ratios(result, EAGER)
    behind = [row for row in result.measurements if row.name == EAGER and result.ratio(row) < 1]
    headline = f"{describe_range(ratios, write_ratio)} times as fast as eager"
    slower = ", ".join(f"batch {row.batch}, length {row.length:,}" for row in behind)
    reason = f"Eager is what it replaces; median of passes in turns, {where}."
    reason += f" It is slower than eager at {slower}." if behind else ""
    return Verdict(not behind, headline, f"{reason}{beside}{doubt}")


def _tell_full_attention(result: BenchmarkResult) -> str:
    times = describe_range(_ratios(result, FULL_ATTENTION), write_ratio)
    return (
        f" Full attention, another model of the same shapes, takes {times} times as long as the artifact; it "
        "is at its best at short lengths, where there are few pairs."
    )


def _ratios(result: BenchmarkResult, name: str) -> list[float]:
    return [result.ratio(row) for row in result.measurements if row.name == name]


def _draw_batches(
    result: BenchmarkResult,
    name: str,
    title: str,
    unit: str,
    value: Callable[[Measurement], float | None],
    tell: Callable[[Points], str],
) -> list[Drawing]:
    """For each batch size, `value` over the length."""
    drawings = []
    for batch, series in curves_by_batch(result.measurements, value, lambda row: row.name).items():
        words = (f"{name}-{batch}", f"{title}, batch {batch}", tell(series))
        drawings.append(draw(*words, paint_series, "length (tokens)", unit, series))
    return drawings


def _tell_latency(series: Points) -> str:
    return tell_longest(series, lambda milliseconds: f"{milliseconds:,.1f} ms")


def _memory_section(result: BenchmarkResult) -> Section:
    def tell_largest(series: Points) -> str:
        peaks = [f"{name} {max(size for _, size in points):,.0f} MB" for name, points in series.items()]
        return f"Largest peaks: {', '.join(peaks)}."

    def megabytes(row: Measurement) -> float | None:
        return None if row.memory is None else row.memory.peak_bytes / 1e6

    drawings = _draw_batches(result, "memory", "Peak memory", "peak memory (MB)", megabytes, tell_largest)
    return Section("memory", "Memory", [f"Measured: {result.memory_measured}."], drawings)


def _nodes_section(nodes: NodeTimes) -> Section:
    total = sum(row.seconds for row in nodes.operators)
    shown = nodes.operators[:MAX_BARS]
    columns: Columns[OperatorTime] = {
        "operator": lambda row: row.operator,
        "runs": lambda row: row.runs,
        "ms": lambda row: f"{1e3 * row.seconds:.2f}",
        "share": lambda row: f"{row.seconds / total:.1%}",
    }
    first = ", ".join(f"{row.operator} {row.seconds / total:.0%}" for row in shown[:3])
    bars = [(row.operator, 1e3 * row.seconds) for row in shown]
    title = "Time in each operator"
    text = (
        f"One pass over {nodes.length:,} tokens, as ONNX Runtime's profiler sees it: {1e3 * total:,.1f} ms."
    )
    drawing = draw("nodes", title, f"Most of it: {first}.", paint_bars, "time (ms)", bars)
    table = make_table(title, columns, nodes.operators)
    return Section("nodes", "Where the time goes", [text], [drawing], [table])


def _about(report: BenchReport) -> list[str]:
    result = report.result
    return [
        f"Machine: {report.describe_machine()}.",
        f"Runtime: {report.runtime}. Latency: {report.describe_passes()}; {result.options.warm_up} untimed "
        "passes before.",
        f"Contenders: {'; '.join(report.describe_contenders())}.",
        *(f"Note: {note}" for note in result.notes),
    ]
