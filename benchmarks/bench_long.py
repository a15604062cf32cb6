"""One long pass through ONNX Runtime: seconds and peak memory against a limit.

    python -m benchmarks.bench_long [--shape crime] [--length 65536] [--logits all|last] [--native]

Batch 1, float32, in a fresh process opened as `reformer_export.load` opens it. The peak is the whole
process's resident size, weights and Python included. Exit status 1 when a shape exceeds its limit.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Final

import click

from benchmarks.contenders import set_up
from benchmarks.models import SHAPES, prepare_model
from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from reformer_export.measure.memory import Memory, measure_pass
from reformer_export.spec import LogitsPositions

LIMIT_BYTES: Final = {"crime": 4 * 2**30, "enwik8": 16 * 2**30}
"""Peak resident bytes at 65,536 tokens."""


def row_from_pass(shape: str, logits: str, length: int, run: Memory) -> Row:
    """A line of the table; GB are 2^30 bytes, as in the limits."""
    return {
        "shape": shape,
        "logits": logits,
        "tokens": f"{length:,}",
        "seconds": f"{run.seconds:.2f}",
        "loaded GB": f"{run.loaded_bytes / 2**30:.2f}",
        "peak GB": f"{run.peak_bytes / 2**30:.2f}",
        "limit GB": f"{LIMIT_BYTES[shape] / 2**30:.0f}",
    }


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), default=list(SHAPES))
@click.option("--length", type=click.IntRange(1), default=65536, show_default=True, help="Tokens.")
@click.option("--logits", type=click.Choice(["all", "last"]), default="all", show_default=True)
@click.option("--native", is_flag=True, help="Run the native operator library's kernels.")
@click.option("--feed-forward-slices", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--name", help="Of the result files.  [default: long-portable-THREADS or long-native-THREADS]")
def main(
    shapes: tuple[str, ...],
    length: int,
    logits: LogitsPositions,
    native: bool,
    feed_forward_slices: int,
    threads: int,
    name: str | None,
) -> None:
    contender = "native" if native else "portable"
    rows, data, exceeded = [], [], False
    for shape in shapes:
        model = prepare_model(shape, logits, feed_forward_slices)
        click.echo(f"{shape}, {length:,} tokens ...", err=True)
        run = measure_pass(set_up(contender, model, threads), 1, length)
        assert run is not None, "needs a system that tells a process's memory"
        rows.append(row_from_pass(shape, logits, length, run))
        data.append({"shape": shape, "logits": logits, "tokens": length, **dataclasses.asdict(run)})
        exceeded |= run.peak_bytes > LIMIT_BYTES[shape]
    machine = describe_machine()
    title = f"One pass, {contender}, {threads} thread{'s' * (threads > 1)}"
    print_table(title, rows)
    settings = {"contender": contender, "threads": threads, "feed_forward_slices": feed_forward_slices}
    results = {"machine": machine, **settings, "results": data}
    write_results(name or f"long-{contender}-{threads}", title, rows, results, [describe_run(machine)])
    sys.exit(int(exceeded))


if __name__ == "__main__":
    main()
