"""Where one forward pass of the portable file spends its time, by operator type and by part of the model.

python -m benchmarks.profile_portable [--shape crime] [--length 16384] [--threads 2] [--nodes 20]
"""

from __future__ import annotations

import bisect
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.models import SHAPES, prepare_model, random_inputs
from benchmarks.report import Row, print_table
from reformer_export.artifact import MODEL_NAME


@dataclass(frozen=True)
class Event:
    """One kernel run, and the shapes of its inputs."""

    name: str
    op_type: str
    shapes: str
    seconds: float


def profile_model(model: Path, input_ids: NDArray[np.int64], threads: int, passes: int) -> list[Event]:
    """The kernels of one pass of the file `model` over `input_ids` [B, L], each the best of `passes`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    feeds = {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
        for _ in range(1 + passes):
            session.run(None, feeds)
        trace = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = _kernels_by_run(trace)[1:]  # the first one warms up
    return [min(repeats, key=lambda event: event.seconds) for repeats in zip(*runs, strict=True)]


def _kernels_by_run(trace: list[dict[str, Any]]) -> list[list[Event]]:
    """The kernels of each run in order; Loop and If, which contain others, are left out."""
    begins = sorted(entry["ts"] for entry in trace if entry["name"] == "model_run")
    runs: list[list[Event]] = [[] for _ in begins]
    for entry in sorted(trace, key=lambda entry: entry["ts"]):
        arguments = entry.get("args", {})
        is_kernel = entry["name"].endswith("_kernel_time")
        if is_kernel and arguments["op_name"] not in ("Loop", "If", "Scan"):
            name = entry["name"].removesuffix("_kernel_time")
            event = Event(name, arguments["op_name"], _describe_shapes(arguments), entry["dur"] / 1e6)
            runs[bisect.bisect(begins, entry["ts"]) - 1].append(event)
    return runs


def _describe_shapes(arguments: dict[str, Any]) -> str:
    shapes = [shape for described in arguments.get("input_type_shape", ()) for shape in described.values()]
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def rank_events(events: list[Event], key: str) -> list[tuple[str, int, float]]:
    """(key, runs, seconds) of the events, grouped by the attribute `key`, slowest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for event in events:
        groups[getattr(event, key)].append(event.seconds)
    ranked = [(name, len(seconds), sum(seconds)) for name, seconds in groups.items()]
    return sorted(ranked, key=lambda entry: -entry[2])


def rows_from_ranking(column: str, ranking: list[tuple[str, int, float]], total: float) -> list[Row]:
    """Table rows, with each group's share of `total` seconds."""
    return [
        {column: name, "runs": str(runs), "ms": f"{1e3 * seconds:.1f}", "share": f"{seconds / total:.1%}"}
        for name, runs, seconds in ranking
    ]


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="crime", show_default=True)
@click.option("--length", type=click.IntRange(1), default=16384, show_default=True, help="Tokens.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--passes", type=click.IntRange(1), default=5, show_default=True)
@click.option("--nodes", default=20, show_default=True, help="Rows of the table of slowest nodes.")
@click.option("--model", "model_file", type=click.Path(path_type=Path), help="Another .onnx of this shape.")
def main(shape: str, length: int, threads: int, passes: int, nodes: int, model_file: Path | None) -> None:
    prepared = prepare_model(shape)
    input_ids = random_inputs(prepared.spec.vocab_size, length)
    events = profile_model(model_file or prepared.artifact / MODEL_NAME, input_ids, threads, passes)
    total = sum(event.seconds for event in events)
    title = f"{shape}, {length:,} tokens, {threads} threads: {total:.3f} s in kernels"
    print_table(title, rows_from_ranking("operator", rank_events(events, "op_type"), total))
    slowest = [(f"{e.op_type} {e.shapes} [{e.name}]", 1, e.seconds) for e in events]
    slowest.sort(key=lambda entry: -entry[2])
    print_table("Slowest nodes", rows_from_ranking("node", slowest[:nodes], total))


if __name__ == "__main__":
    main()
