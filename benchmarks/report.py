"""Results on the terminal and in benchmarks/results: NAME.json, NAME.md, NAME.png."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from reformer_export.measure.machine import cpu_name

RESULTS: Final = Path(__file__).parent / "results"
_LIBRARIES: Final = (
    "reformer-export",
    "torch",
    "transformers",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnx",
    "numpy",
)

_CPUINFO: Final = Path("/proc/cpuinfo")
_INSTRUCTIONS: Final = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_tile": "AMX",
    "asimddp": "dot products",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
"""As Linux calls them, and their names."""

Row = Mapping[str, str]
"""A table's row: column name -> text; all rows of a table have the same columns."""


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load average, versions, date: what a timing means nothing without."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "onnxruntime-gpu" in versions:  # the one that is imported, whatever else is installed
        versions.pop("onnxruntime", None)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "instructions": find_instructions(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions,
    }


def find_instructions(cpuinfo: str | None = None) -> list[str]:
    """The instructions that decide how fast products are, those that this processor has; `cpuinfo`: in place
    of the system's."""
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
    lines = (line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    flags = next(lines, "").split()
    return [name for flag, name in _INSTRUCTIONS.items() if flag in flags]


def describe_place(machine: Mapping[str, Any]) -> str:
    """Processor, cores and instructions, to be named beside every number."""
    instructions = list(machine["instructions"])
    without = [] if "AMX" in instructions or platform.machine() != "x86_64" else ["no AMX"]
    return ", ".join([f"{machine['cpu']} ({machine['cores']} cores)", *instructions, *without])


def describe_run(machine: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """A table's last note: where and when it was made, and with what; `before`: the machine at its start."""
    versions = ", ".join(f"{library} {version}" for library, version in machine["versions"].items())
    load = str(machine["load_average"][0])
    if before is not None:
        load = f"{before['load_average'][0]} before, {load} after"
    return f"{describe_place(machine)}; load {load}; {machine['date']}; {versions}."


def print_table(title: str, rows: Sequence[Row]) -> None:
    """One table on standard output, not folded where that is a file."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(title, style="bold")
    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def write_results(
    name: str,
    title: str,
    rows: Sequence[Row],
    data: Mapping[str, Any],
    notes: Sequence[str],
    summary: Sequence[Row] = (),
) -> None:
    """`data` to NAME.json, `rows` with `notes` to NAME.md, a `summary` before them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {title}", ""]
    if summary:
        lines += [*_write_table(summary), ""]
    lines += [*_write_table(rows), "", *(f"- {note}" for note in notes)]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_table(rows: Sequence[Row]) -> list[str]:
    columns = list(rows[0])
    head = [" | ".join(["", *columns, ""]).strip(), "|" + " ---: |" * len(columns)]
    return head + ["| " + " | ".join(row.values()) + " |" for row in rows]


def plot_tokens_per_second(
    name: str, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
) -> None:
    """NAME.png: tokens a second over context, a panel beside the other; each holds (tokens, tokens/s) by
    label, and a label has one colour in all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 5), layout="constrained", sharey=True, squeeze=False
    )
    labels = list(dict.fromkeys(label for series in panels.values() for label in series))
    lines = {}
    for axes, (title, series) in zip(row[0], panels.items(), strict=True):
        for label, points in series.items():
            colour = f"C{labels.index(label)}"
            (lines[label],) = axes.plot(*zip(*points, strict=True), marker="o", color=colour)
        lengths = sorted({length for points in series.values() for length, _ in points})
        axes.set(xscale="log", yscale="log", xlabel="context (tokens)", title=title)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(lambda value, _place: f"{value:,.10g}")
        axes.grid(alpha=0.3)
    row[0][0].set_ylabel("tokens/s")
    figure.legend([lines[label] for label in labels], labels, loc="outside upper center", ncols=2)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    pyplot.close(figure)


def plot_cost_per_token(name: str, title: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """NAME.png: seconds per 1,000 tokens over length; `series` holds (tokens, seconds) by label."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    lengths = sorted({length for points in series.values() for length, _ in points})
    for label, points in series.items():
        axes.plot(*zip(*((n, 1000 * s / n) for n, s in points), strict=True), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set(xlabel="tokens", ylabel="seconds per 1,000 tokens", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(RESULTS / f"{name}.png", dpi=150)
    pyplot.close(figure)
