"""`bench --json` as a page: is it faster, by how much, and where the time goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from reformer_export.report.figures import Drawing, draw_bars, draw_lines
from reformer_export.report.page import Page, Section, Table, Verdict

ARTIFACT: Final = "artifact"
MAX_BARS: Final = 12

COLUMNS: Final = (
    *(
        "batch",
        "length",
        "contender",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "tokens/s",
        "peak MB",
        "times the artifact",
    ),
)


def page_from_bench(report: dict[str, Any]) -> Page:
    """A page from the JSON of `bench --report`."""
    results = report["results"]
    nodes = report.get("nodes")
    sections = [
        Section("time", "Time", drawings=_time_drawings(results)),
        *([_memory_section(report, results)] if report["memory_measured"] else []),
        *([_nodes_section(nodes)] if nodes else []),
        Section(
            "table",
            "Every measurement",
            tables=[Table("Latency, throughput, memory", COLUMNS, _rows(results))],
        ),
        Section(
            "about",
            "How it was measured",
            _about(report),
            details_title="manifest.json",
            details=json.dumps(report["manifest"], indent=2),
        ),
    ]
    return Page(f"How fast is {report['artifact']}?", sections, _verdict(results))


def _verdict(results: Sequence[dict[str, Any]]) -> Verdict:
    others = sorted({row["contender"] for row in results} - {ARTIFACT})
    if not others:
        fastest = max(results, key=lambda row: row["tokens_per_second"])
        return Verdict(
            True, f"{fastest['tokens_per_second']:,.0f} tokens a second", "Compared with nothing else."
        )
    parts, slower = [], []
    for name in others:
        ratios = [row["times_artifact"] for row in results if row["contender"] == name]
        parts.append(f"{min(ratios):.2g} to {max(ratios):.2g} times as fast as {name}")
        slower += [name] if min(ratios) < 1 else []
    reason = f"{'; '.join(parts)}, over the shapes that were measured."
    if slower:
        return Verdict(
            False, f"Slower than {' and '.join(slower)} at some shapes", reason[0].upper() + reason[1:]
        )
    return Verdict(True, "Faster at every shape", reason[0].upper() + reason[1:])


def _series(
    results: Sequence[dict[str, Any]], batch: int, value: Any
) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in results:
        number = value(row)
        if row["batch"] == batch and number is not None:
            series.setdefault(row["contender"], []).append((float(row["length"]), float(number)))
    return series


def _time_drawings(results: Sequence[dict[str, Any]]) -> list[Drawing]:
    drawings = []
    for batch in sorted({row["batch"] for row in results}):
        series = _series(results, batch, lambda row: row["latency_ms"]["p50"])
        longest = max(length for points in series.values() for length, _ in points)
        at_longest = [
            f"{name} {dict(points)[longest]:,.1f} ms"
            for name, points in series.items()
            if longest in dict(points)
        ]
        drawings.append(
            draw_lines(
                f"time-{batch}",
                f"Median latency, batch {batch}",
                f"At {longest:,.0f} tokens: {', '.join(at_longest)}.",
                "length (tokens)",
                "latency (ms)",
                series,
            )
        )
    return drawings


def _memory_section(report: dict[str, Any], results: Sequence[dict[str, Any]]) -> Section:
    drawings = []
    for batch in sorted({row["batch"] for row in results}):
        series = _series(results, batch, lambda row: _megabytes(row["peak_memory_bytes"]))
        peaks = [f"{name} {max(value for _, value in points):,.0f} MB" for name, points in series.items()]
        drawings.append(
            draw_lines(
                f"memory-{batch}",
                f"Peak memory, batch {batch}",
                f"Largest peaks: {', '.join(peaks)}.",
                "length (tokens)",
                "peak memory (MB)",
                series,
            )
        )
    return Section("memory", "Memory", [f"Measured: {report['memory_measured']}."], drawings)


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6


def _nodes_section(nodes: dict[str, Any]) -> Section:
    total = sum(row["seconds"] for row in nodes["operators"])
    shown = nodes["operators"][:MAX_BARS]
    first = ", ".join(f"{row['operator']} {row['seconds'] / total:.0%}" for row in shown[:3])
    rows = [
        (row["operator"], str(row["runs"]), f"{1e3 * row['seconds']:.2f}", f"{row['seconds'] / total:.1%}")
        for row in nodes["operators"]
    ]
    return Section(
        "nodes",
        "Where the time goes",
        [
            f"One pass over {nodes['length']:,} tokens, as ONNX Runtime's profiler sees it: "
            f"{1e3 * total:,.1f} ms."
        ],
        [
            draw_bars(
                "nodes",
                "Time in each operator",
                f"Most of it: {first}.",
                "time (ms)",
                [(row["operator"], 1e3 * row["seconds"]) for row in shown],
            )
        ],
        [Table("Time in each operator", ("operator", "runs", "ms", "share"), rows)],
    )


def _rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            str(row["batch"]),
            f"{row['length']:,}",
            row["contender"],
            *(f"{row['latency_ms'][name]:,.2f}" for name in ("p50", "p90", "p99")),
            f"{row['tokens_per_second']:,.0f}",
            "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:,.0f}",
            "" if row["contender"] == ARTIFACT else f"{row['times_artifact']:.2f}",
        )
        for row in results
    ]


def _about(report: dict[str, Any]) -> list[str]:
    contenders = [
        f"{name}: {contender['device']}, {contender['dtype']}"
        for name, contender in report["contenders"].items()
    ]
    return [
        f"Runtime: {report['runtime']}. {report['repeat']} passes of each contender, in turns, after "
        f"{report['warm_up']} untimed ones.",
        f"Contenders: {'; '.join(contenders)}.",
        *(f"Note: {note}" for note in report["notes"]),
    ]
