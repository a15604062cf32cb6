"""Where one forward pass of the portable file spends its time, by operator type and by part of the model.

python -m benchmarks.profile_portable [--shape crime] [--length 16384] [--threads 2] [--nodes 20]
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.models import SHAPES, prepare_model, random_inputs
from benchmarks.report import Row, print_table
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.measure.node_times import profile_model, rank_kernels


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
    print_table(title, rows_from_ranking("operator", rank_kernels(events, "op_type"), total))
    slowest = [(f"{e.op_type} {e.shapes} [{e.name}]", 1, e.seconds) for e in events]
    slowest.sort(key=lambda entry: -entry[2])
    print_table("Slowest nodes", rows_from_ranking("node", slowest[:nodes], total))


if __name__ == "__main__":
    main()
