"""`reformer-export verify`: an artifact against unpatched eager transformers, in depth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from reformer_export.artifact import MODEL_NAME, Manifest, json_text, read_manifest, write_atomically
from reformer_export.cli.checkpoint_path import find_checkpoint
from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_values import STANDARD_OUTPUT, integers_from_option, output_path_from_option
from reformer_export.cli.runtime_options import native_option
from reformer_export.cli.tables import print_table, show_progress
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.runtimes import RUNTIMES

if TYPE_CHECKING:
    from reformer_export.parity import CaseResult, VerifyResult


@click.command("verify")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--checkpoint", help="Folder or hub id; the one that was exported, by default.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=RUNTIMES[:1],
    show_default=True,
    metavar="NAME",
    help="What runs the artifact.",
)
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where ONNX Runtime runs it; auto takes CUDA when it is there.",
)
@click.option(
    "--lengths",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Sequence lengths, in tokens; around the chunk lengths and up to the longest, by default.",
)
@click.option(
    "--batch-sizes", metavar="N,N,...", callback=integers_from_option, help="Batch sizes; 1 to 3, by default."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random inputs."
)
@native_option
@click.option("--threads", type=click.IntRange(1), help="CPU threads of an operator; default: all cores.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=output_path_from_option,
    help="Write the results to FILE; - prints them in place of the table.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    callback=output_path_from_option,
    help="Write a report with a plot, for people.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path,
    checkpoint: str | None,
    runtimes: tuple[str, ...],
    json_file: Path | None,
    report_file: Path | None,
    **options: Any,
) -> None:
    """Compare the artifact OUT with eager over lengths, batches and masks.

    For each case: the largest output difference when the graph is given eager's hash buckets (pinned), how
    many hashes differ (a flip is explained when its two best scores differ by less than the dtype's
    rounding), and the largest output difference when the graph hashes by itself (free). It passes when every
    pinned difference is within the tolerance and every flip is explained; exit status 1 otherwise.

    \b
    Examples:
      reformer-export verify OUT
      reformer-export verify OUT --lengths 1,64,1000 --batch-sizes 1,3
      reformer-export verify OUT --checkpoint ./my-reformer --json parity.json --report parity.html
    """
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise InputError(f"--runtime: got {runtime!r}, expected {' or '.join(RUNTIMES)}; name one")
    manifest = read_manifest(out)
    with leave_on_termination(), refuse_in_one_line("verifying"):
        result = _verify(out, manifest, find_checkpoint(out, manifest, checkpoint), options)
    _report(out, manifest, result, json_file)
    if report_file is not None:
        from reformer_export.parity import render_report

        write_atomically(report_file, render_report(out.resolve().name, result))
    if not result.passed:
        click.echo(f"Error: parity with eager: {result.verdict()}", err=True)
        ctx.exit(EXIT_CHECK_FAILED)


def _verify(out: Path, manifest: Manifest, checkpoint: Path, options: dict[str, Any]) -> VerifyResult:
    from reformer_export.parity import choose_cases, silence_transformers, verify_artifact

    silence_transformers()
    cases = choose_cases(manifest.spec, options.pop("lengths"), options.pop("batch_sizes"))
    with show_progress("Compared cases", len(cases)) as advance:
        return verify_artifact(out, checkpoint, cases, on_result=lambda _result: advance(1), **options)


def _report(out: Path, manifest: Manifest, result: VerifyResult, json_file: Path | None) -> None:
    """Print the table, or write the JSON where the user wants it."""
    # verify_artifact has compared the file with this SHA-256.
    report = {"artifact": str(out), "model_sha256": manifest.files[MODEL_NAME], **result.to_dict()}
    if json_file == STANDARD_OUTPUT:
        click.echo(json_text(report))
        return
    if json_file is not None:
        write_atomically(json_file, json_text(report) + "\n")
    title = f"{out} against eager ({result.runtime}, {result.dtype})"
    print_table(title, COLUMNS, [_row(case) for case in result.cases])
    if result.passed:
        click.echo(f"\n{result.verdict()}")


COLUMNS: Final = (
    "case",
    "pinned error",
    "tolerance",
    "hashes",
    "flips",
    "unexplained",
    "worst margin",
    "free error",
    "",
)


def _row(result: CaseResult) -> list[str]:
    margin = max((layer.worst_margin for layer in result.layers), default=0.0)
    return [
        str(result.case),
        f"{result.pinned_error:.1e}",
        f"{result.tolerance:.1e}",
        str(result.hashed),
        str(result.flips),
        str(result.unexplained),
        f"{margin:.1e}" if result.flips else "-",
        f"{result.free_error:.1e}",
        "ok" if result.passed else "FAILED",
    ]
