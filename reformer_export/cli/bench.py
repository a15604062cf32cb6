"""`reformer-export bench`: latency, throughput and memory of an artifact, against what it replaces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command, name_own_options
from reformer_export.cli.option_values import (
    integers_from_option,
    json_file_option,
    report_option,
    write_json,
)
from reformer_export.cli.runtime_options import RUNTIME_SECTIONS, runtime_options
from reformer_export.cli.tables import echo_on_stderr, print_table, show_progress
from reformer_export.errors import InputError
from reformer_export.measure.contenders import AGAINST, Name
from reformer_export.report.bench_page import BenchReport
from reformer_export.report.decoding_page import DecodeReport
from reformer_export.runtimes import RuntimeOptions
from reformer_export.workflows.bench import BenchRequest, bench_artifact

Report = BenchReport | DecodeReport


def names_from_option(
    _ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[Name, ...] | None:
    """Contenders with commas; "none" for none."""
    if text is None:
        return None
    given = [] if text == "none" else text.split(",")
    names = tuple(name for name in AGAINST if name in given)
    if len(names) != len(given):
        raise InputError(
            param.opts[0], repr(text), f"{', '.join(AGAINST)} with commas, or none", "name each once"
        )
    return names


SECTIONS = {
    "What is measured": (
        "decode",
        "against",
        "lengths",
        "batch_sizes",
        "repeat",
        "warm_up",
        "memory",
        "checkpoint",
    ),
    "Output": ("json_file", "report_file"),
    **RUNTIME_SECTIONS,
}


@click.command("bench", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.option("--checkpoint", help="Folder or hub id for eager.  [default: the one that was exported]")
@click.option(
    "--decode",
    is_flag=True,
    help="Measure how it writes: tokens a second over the context behind them, on its cache.",
)
@click.option(
    "--against",
    metavar="NAME,...",
    callback=names_from_option,
    help="What to compare with; none for nothing.  [default: eager,full-attention; with --decode eager]",
)
@click.option(
    "--lengths",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Sequence lengths, in tokens.  [default: those of 256,1024,4096 that fit, and the longest; with "
    "--decode also 16384 and 65536, and no longer]",
)
@click.option(
    "--batch-sizes", metavar="N,N,...", callback=integers_from_option, help="Batch sizes.  [default: 1]"
)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    help="Timed passes of each contender, or turns of 8 steps on a cache.  [default: 20, or as many as a "
    "minute allows at a length, but 3]",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=BenchRequest.warm_up,
    help="Untimed passes of each contender before, at every shape.",
)
@click.option("--memory/--no-memory", default=True, help="Measure memory, in processes of their own.")
@runtime_options
@json_file_option
@report_option
def command(
    out: str,
    batch_sizes: tuple[int, ...] | None,
    choice: RuntimeOptions,
    json_file: Path | None,
    report_file: Path | None,
    **options: Any,
) -> None:
    """Measure the artifact OUT: latency percentiles, tokens a second and peak memory.

    Beside it, in the same run and in turns, stand eager (the checkpoint's own package, unpatched), which it
    replaces, and for orientation full attention: a model of the same shapes that attends to all tokens, in
    torch, on random weights (of transformers' models only). That is another model, with other answers, and
    faster at short lengths. Both run on the device that the runtime uses: on a GPU in the artifact's dtype,
    on a CPU in float32, which is the fastest there. What one of them lacks is said, and the rest measured.
    `verify` says whether the results agree; this asks for time only.

    With --decode a prompt of each length is continued token by token, by the artifact on its cache
    (`onnx --decode`) and with a whole pass for each token, and by eager with its own cache, which gives other
    numbers, and without.

    \b
    Examples:
      reformer-export bench OUT
      reformer-export bench OUT --lengths 1024,16384 --batch-sizes 1,4 --repeat 50 --json bench.json
      reformer-export bench OUT --runtime tensorrt --against full-attention
      reformer-export bench OUT --report bench.html
      reformer-export bench OUT --decode --lengths 1024,16384 --batch-sizes 1,16
    """
    node_times = report_file is not None and not options["decode"]
    request = BenchRequest(choice, batch_sizes=batch_sizes or (1,), node_times=node_times, **options)
    with leave_on_termination(), refuse_in_one_line("benchmarking"):
        report = name_options_in_notes(
            bench_artifact(out, request, say=echo_on_stderr, progress=show_progress)
        )
    if report_file is not None:
        from reformer_export.report import write_report

        write_report(report_file, report.page())
    _print(report, json_file)


def name_options_in_notes(report: Report) -> Report:
    """`report` with the flags of this command in its notes."""
    notes = tuple(name_own_options(note) for note in report.result.notes)
    if isinstance(report, DecodeReport):
        return dataclasses.replace(report, result=dataclasses.replace(report.result, notes=notes))
    return dataclasses.replace(report, result=dataclasses.replace(report.result, notes=notes))


def _print(report: Report, json_file: Path | None) -> None:
    """Print the table, or write the JSON where the user wants it."""
    if write_json(json_file, report.to_dict()):
        return
    result = report.result
    print_table(report.table())
    verdict = report.verdict()
    click.echo(f"\n{verdict.headline}. {verdict.reason}")
    click.echo(f"Latency: {report.describe_passes()}.")
    click.echo(f"Machine: {report.describe_machine()}.")
    for words in report.describe_contenders()[0 if isinstance(report, DecodeReport) else 1 :]:
        click.echo(f"{words}.")
    if result.memory_measured is not None:
        click.echo(f"Memory: {result.memory_measured}.")
    for note in result.notes:
        click.echo(f"Note: {note}")
