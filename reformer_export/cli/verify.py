"""`reformer-export verify`: an artifact against unpatched eager, in depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import (
    integers_from_option,
    json_file_option,
    report_option,
    write_json,
)
from reformer_export.cli.runtime_options import (
    RUNTIME_SECTIONS,
    device_id_option,
    engine_options,
    native_option,
    provider_option,
    tf32_option,
    threads_option,
)
from reformer_export.cli.tables import echo_on_stderr, print_table, show_progress
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.report.tables import accuracy_table, cost_table, decoding_parity_table, sweep_table
from reformer_export.report.verify_report import VerifyReport
from reformer_export.runtimes import RUNTIMES
from reformer_export.workflows.verify import verify_artifact
from reformer_export.workflows.verify_request import VerifyRequest

SECTIONS = {
    "What is compared": (
        *("checkpoint", "module", "inputs", "lengths", "batch_sizes", "num_hashes", "seed", "atol", "rtol"),
        *("data", "data_length", "beside", "bisect"),
    ),
    "Output": ("json_file", "report_file"),
    **RUNTIME_SECTIONS,
    "Runtime": ("runtimes",),
}


@click.command("verify", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.option("--checkpoint", help="Folder or hub id for eager.  [default: the one that was exported]")
@click.option(
    "--module",
    metavar="PACKAGE.MODULE:FUNCTION",
    help="For an artifact of the task custom: a function of yours that returns the module that was exported, "
    "or the module and inputs of it. It is imported and called, so that its code runs.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=RUNTIMES[:1],
    metavar="NAME",
    help="What runs the artifact; several may be named.",
)
@engine_options
@provider_option
@device_id_option
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    help="Compare on these inputs in place of random ones: a .npz or .jsonl file as `run --file` reads it; "
    "neighbours of one length go together, up to --batch-sizes. For the task custom a .npz of all inputs by "
    "name.",
)
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    help="Largest error of outputs, with --rtol in place of the dtype's tolerance.  [default with --rtol: 0]",
)
@click.option(
    "--rtol",
    type=click.FloatRange(min=0),
    help="As --atol, a share of the largest expected output; both are added.  [default with --atol: 0]",
)
@click.option(
    "--lengths",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Sequence lengths, in tokens.  [default: around the chunk lengths and up to the longest]",
)
@click.option(
    "--batch-sizes", metavar="N,N,...", callback=integers_from_option, help="Batch sizes.  [default: 1 to 3]"
)
@click.option(
    "--num-hashes",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Numbers of hash rounds to try, for an artifact exported with --max-hashes.  [default: all, "
    "and a few inputs with fewer]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A UTF-8 text: also measure next-token loss and speed on it, for several numbers of hashes.",
)
@click.option(
    "--data-length",
    type=click.IntRange(min=2),
    help="Tokens of a sequence that --data is cut into.  [default: the longest that runs]",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Another artifact of the same checkpoint: tell its size, speed and loss beside this one's, on "
    "--data. Several may be named.",
)
@click.option(
    "--bisect",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also name the first node that differs from eager, and write it with its inputs into DIR, a new "
    "folder, for `reformer-export replay DIR`.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the random inputs.")
@native_option
@tf32_option
@threads_option
@json_file_option
@report_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: str,
    num_hashes: tuple[int, ...] | None,
    json_file: Path | None,
    report_file: Path | None,
    **options: Any,
) -> None:
    """Compare the artifact OUT with eager over lengths, batches and masks.

    What the files store is compared bit by bit with what the exporter makes of the checkpoint: weights,
    scales, biases and the rest, whatever their types; one that differs fails.

    For each case: the largest output difference when the graph is given eager's hash buckets (pinned), how
    many hashes differ (a flip is explained when its two best scores differ by less than the dtype's
    rounding), and the largest output difference when the graph hashes by itself (free). It passes when every
    pinned difference is within the tolerance and every flip is explained; exit status 1 otherwise.

    An engine's buckets cannot be read: there pinned differences and flips are those of ONNX Runtime on the
    same file, and the engine's own outputs have to agree at the median token.

    An artifact of the task custom is compared with the module that it was made of, which --module gives:
    nothing in an artifact says where that is. Its inputs are those of --inputs, or else those that the
    function returns, or random ones.

    With --atol or --rtol, the largest output difference may be ATOL + RTOL x the largest expected output;
    flips are judged as ever, and every result says by what it was judged.

    With --tf32 on CUDA, float32's products round what they multiply to ten bits of mantissa: the result says
    so, and is judged by the tolerance and the flips of such a rounding.

    An artifact exported with --max-hashes is compared at fewer hashes too: there eager runs with the first
    rounds of the artifact's, since its own draw would be another. With --data, a language model's next-token
    loss and speed on a text follow, for 1, 2, 4, 8 and all hashes.

    An artifact's decode.onnx is judged too: its prompts by model.onnx, the operators of its steps by those
    over all tokens, the rest of each step by model.onnx on the same attention, and rows of a batch by each
    alone. How far steps drift from whole passes over the same tokens is told, not judged; with --data on that
    text, with its bits per character.

    Of an artifact in float16 or bfloat16, or with weights of few bits, it is told what that costs beside the
    original: hashes that fall otherwise, predictions that stay, and with --data bits per character. With
    --beside, other artifacts stand in the same table.

    With --bisect, every part of the graph also runs by itself on eager's values: the first whose result is
    then wrong is named, and written into DIR with its inputs; exit status 1 when there is one.

    \b
    Examples:
      reformer-export verify OUT
      reformer-export verify OUT --lengths 1,64,1000 --batch-sizes 1,3
      reformer-export verify OUT --inputs requests.jsonl --atol 1e-3
      reformer-export verify OUT --checkpoint ./my-reformer --json parity.json --report parity.html
      reformer-export verify OUT --data held-out.txt --json accuracy.json
      reformer-export verify OUT --data held-out.txt --beside OUT-INT8
      reformer-export verify OUT --bisect wrong-node
      reformer-export verify OUT --module my_package.my_model:build
    """
    request = VerifyRequest(num_hashes=num_hashes or (), details=report_file is not None, **options)
    if report_file is not None and len(request.runtimes) > 1:
        raise InputError(
            "report_file", f"{len(request.runtimes)} runtimes", "one a report", "run once for each of them"
        )
    with leave_on_termination(), refuse_in_one_line("verifying"):
        report = verify_artifact(out, request, say=echo_on_stderr, progress=show_progress)
    if report_file is not None:
        from reformer_export.report import write_report
        from reformer_export.report.verify_page import page_from_verify

        write_report(report_file, page_from_verify(report))
    _print(report, json_file)
    for failure in report.failures():
        click.echo(f"Error: parity with eager: {failure}", err=True)
    if not report.passed:
        ctx.exit(EXIT_CHECK_FAILED)


def _print(report: VerifyReport, json_file: Path | None) -> None:
    """Print tables for each runtime, or write the JSON where the user wants it."""
    if write_json(json_file, report.to_dict()):
        return
    if report.constants is not None and report.constants.passed:
        click.echo(f"{report.constants.verdict()}.")
    for runtime in report.runtimes:
        print_table(sweep_table(report.folder, runtime.sweep))
        click.echo(f"\n{runtime.sweep.rule()}.")
        if runtime.sweep.passed and not report.names_node:
            click.echo(runtime.sweep.verdict())
        if runtime.accuracy is not None:
            print_table(accuracy_table(runtime.accuracy))
        if runtime.decoding is not None:
            print_table(decoding_parity_table(report.folder, runtime.decoding))
            click.echo("\n" + runtime.decoding.verdict())
        if runtime.drift is not None:
            click.echo(f"{runtime.drift.describe()}.")
        if runtime.cost is not None:
            print_table(cost_table(runtime.cost))
    if report.bisect is not None:
        click.echo("\n" + "\n".join(report.bisect.lines()))
