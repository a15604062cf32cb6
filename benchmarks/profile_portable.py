"""Where one forward pass of the portable file spends its time, by operator type and by part of the model.

python -m benchmarks.profile_portable [--shape crime] [--length 16384] [--threads 2] [--nodes 20]
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.models import SHAPES, prepare_model, random_inputs
from benchmarks.report import Row, print_table
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.measure.node_times import profile_model, rank_operators
from reformer_export.runtimes.ort_session import Placement


def row_from_seconds(column: str, name: str, seconds: float, total: float) -> Row:
    """A table row, with the share of `total` seconds."""
    return {column: name, "ms": f"{1e3 * seconds:.1f}", "share": f"{seconds / total:.1%}"}


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
    placement = Placement(threads=threads)
    kernels = profile_model(model_file or prepared.artifact / MODEL_NAME, input_ids, placement, passes)
    total = sum(kernel.seconds for kernel in kernels)
    title = f"{shape}, {length:,} tokens, {threads} threads: {total:.3f} s in kernels"
    operators = [(f"{time.runs} {time.operator}", time.seconds) for time in rank_operators(kernels)]
    print_table(title, [row_from_seconds("operator", *entry, total) for entry in operators])
    slowest = [(f"{k.op_type} {k.shapes} [{k.name}]", k.seconds) for k in kernels]
    slowest.sort(key=lambda entry: -entry[1])
    print_table("Slowest nodes", [row_from_seconds("node", *entry, total) for entry in slowest[:nodes]])


if __name__ == "__main__":
    main()
