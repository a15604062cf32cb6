"""`reformer-export verify`: an artifact against unpatched eager transformers, in depth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES
from reformer_export.artifact.files import json_text, write_atomically
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_values import (
    STANDARD_OUTPUT,
    integers_from_option,
    json_file_option,
    report_option,
)
from reformer_export.cli.runtime_options import engine_options, native_option
from reformer_export.cli.tables import print_table, show_progress
from reformer_export.cli.verify_bisect import bisect_option, check_bisect, print_bisect, run_bisect
from reformer_export.cli.verify_data import check_data_options, data_options, measure_data, print_data
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.runtimes import RUNTIMES, RuntimeOptions
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import RuntimeName
from reformer_export.workflows.checkpoint_source import find_checkpoint

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reformer_export.parity.cases import Case
    from reformer_export.parity.results import CaseResult, VerifyResult
    from reformer_export.parity.session import ParitySession
    from reformer_export.reference.eager import EagerReformer


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
    help="What runs the artifact; several may be named.",
)
@engine_options
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
    "--num-hashes",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Numbers of hash rounds to try, for an artifact exported with --max-hashes; default: all, and a few "
    "inputs with fewer.",
)
@data_options
@bisect_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random inputs."
)
@native_option
@click.option("--threads", type=click.IntRange(1), help="CPU threads of an operator; default: all cores.")
@json_file_option
@report_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path,
    checkpoint: str | None,
    runtimes: tuple[RuntimeName, ...],
    json_file: Path | None,
    report_file: Path | None,
    bisect: Path | None,
    **options: Any,
) -> None:
    """Compare the artifact OUT with eager over lengths, batches and masks.

    For each case: the largest output difference when the graph is given eager's hash buckets (pinned), how
    many hashes differ (a flip is explained when its two best scores differ by less than the dtype's
    rounding), and the largest output difference when the graph hashes by itself (free). It passes when every
    pinned difference is within the tolerance and every flip is explained; exit status 1 otherwise.

    An engine's buckets cannot be read: there pinned differences and flips are those of ONNX Runtime on the
    same file, and the engine's own outputs have to agree at the median token.

    An artifact exported with --max-hashes is compared at fewer hashes too: there eager runs with the first
    rounds of the artifact's, since its own draw would be another. With --data, a language model's next-token
    loss and speed on a text follow, for 1, 2, 4, 8 and all hashes.

    With --bisect, every part of the graph also runs by itself on eager's values: the first whose result is
    then wrong is named, and written into DIR with its inputs; exit status 1 when there is one.

    \b
    Examples:
      reformer-export verify OUT
      reformer-export verify OUT --lengths 1,64,1000 --batch-sizes 1,3
      reformer-export verify OUT --checkpoint ./my-reformer --json parity.json --report parity.html
      reformer-export verify OUT --data held-out.txt --json accuracy.json
      reformer-export verify OUT --bisect wrong-node
    """
    _check_runtimes(runtimes, options, report_file)
    check_bisect(bisect, runtimes)
    manifest = read_manifest(out)
    data, data_length = options.pop("data"), options.pop("data_length")
    check_data_options(manifest, data, data_length)
    counts = options["num_hashes"] = tuple(dict.fromkeys(options["num_hashes"] or ()))
    for count in counts:
        choose_num_hashes(manifest, count)
    with leave_on_termination(), refuse_in_one_line("verifying"):
        found = find_checkpoint(out, manifest, checkpoint)
        cases = _choose_cases(manifest, options)
        results: list[VerifyResult] = []
        dials: list[dict[str, Any] | None] = []
        details, bisected, eager = None, None, None
        for runtime in runtimes:
            with _open(out, found, runtime, options, eager) as session:
                eager = session.eager
                results.append(_sweep(session, cases))
                dials.append(
                    None if data is None else measure_data(session.runtime, data, data_length, counts)
                )
                if report_file is not None:
                    from reformer_export.parity.details import collect_details

                    click.echo("Looking inside the model for the report ...", err=True)
                    details = collect_details(session, [case.case for case in results[0].cases]).to_dict()
                if bisect is not None and bisected is None and runtime not in ENGINE_RUNTIMES:
                    bisected = run_bisect(bisect, session, results[-1])
    report = _describe(out, manifest, results, dials, details)
    if bisected is not None:
        found_node, replay = bisected
        report["bisect"] = found_node.to_dict() | ({} if replay is None else {"replay": replay})
    _report(out, report, results, dials, json_file)
    if bisect is not None and bisected is not None and json_file != STANDARD_OUTPUT:
        print_bisect(bisect, *bisected)
    if report_file is not None:
        from reformer_export.report import render_page
        from reformer_export.report.verify_page import page_from_verify

        write_atomically(report_file, render_page(page_from_verify(report)))
    failed = [result for result in results if not result.passed]
    for result in failed:
        click.echo(f"Error: parity with eager: {result.verdict()}", err=True)
    names_node = bisected is not None and bisected[0].named is not None
    if names_node and not failed:
        click.echo("Error: parity with eager: a node differs, although every output agrees", err=True)
    if failed or names_node:
        ctx.exit(EXIT_CHECK_FAILED)


def _check_runtimes(
    runtimes: tuple[RuntimeName, ...], options: dict[str, Any], report_file: Path | None
) -> None:
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise InputError(f"--runtime: got {runtime!r}, expected {' or '.join(RUNTIMES)}; name one")
    if len(runtimes) > 1 and report_file is not None:
        raise InputError(
            f"--report: got {len(runtimes)} runtimes, expected one a report; run once for each of them"
        )
    for_engines = options["engine"] is not None or options["cuda_graphs"]
    if for_engines and not set(runtimes) & set(ENGINE_RUNTIMES):
        raise InputError(
            "--engine, --cuda-graphs: got one with --runtime onnxruntime, expected a TensorRT; "
            f"add --runtime {' or '.join(ENGINE_RUNTIMES)}"
        )


def _choose_cases(manifest: Manifest, options: dict[str, Any]) -> tuple[list[Case], bool]:
    """The cases, and whether they are the default ones: an engine takes those that it was built for."""
    from reformer_export.parity.cases import add_num_hashes_cases, check_cases, choose_cases

    lengths, batch_sizes, counts = (options[name] for name in ("lengths", "batch_sizes", "num_hashes"))
    chosen = choose_cases(manifest.spec, lengths, batch_sizes)
    if counts:
        chosen = [dataclasses.replace(case, num_hashes=count) for count in counts for case in chosen]
    else:
        chosen = add_num_hashes_cases(manifest, chosen)
    check_cases(manifest.spec, chosen)
    return chosen, lengths is None and batch_sizes is None and not counts


def _open(
    out: Path, checkpoint: Path, runtime: RuntimeName, options: dict[str, Any], eager: EagerReformer | None
) -> AbstractContextManager[ParitySession]:
    """`eager` is that of an earlier session, which has compared the artifact's files with their SHA-256."""
    from reformer_export.parity.session import open_session

    names = ("engine", "cuda_graphs") if runtime in ENGINE_RUNTIMES else ("provider", "native", "threads")
    choice = RuntimeOptions(runtime, **{name: options[name] for name in names}, check=eager is None)
    beside = RuntimeOptions(provider="cpu", threads=options["threads"], native=options["native"])
    return open_session(out, checkpoint, choice, options["seed"], eager, beside)


def _sweep(session: ParitySession, cases: tuple[list[Case], bool]) -> VerifyResult:
    from reformer_export.parity.sweep import sweep

    chosen, are_default = cases
    with show_progress("Compared cases", len(chosen)) as advance:
        return sweep(session, None if are_default else chosen, lambda _result: advance(1))


def _describe(
    out: Path,
    manifest: Manifest,
    results: list[VerifyResult],
    dials: list[dict[str, Any] | None],
    details: dict[str, Any] | None,
) -> dict[str, Any]:
    """The JSON report of one runtime, or of several under "runtimes"."""
    # The session has compared the file with this SHA-256.
    report: dict[str, Any] = {"artifact": str(out), "model_sha256": manifest.files[MODEL_NAME]}
    runs = [
        result.to_dict() | ({} if runtime_num_hashes is None else {"dial": runtime_num_hashes})
        for result, runtime_num_hashes in zip(results, dials, strict=True)
    ]
    if len(runs) == 1:
        report |= runs[0]
    else:
        report["runtimes"] = runs
    if details is not None:
        report |= {"details": details, "manifest": manifest.to_dict()}
    return report


def _report(
    out: Path,
    report: dict[str, Any],
    results: list[VerifyResult],
    dials: list[dict[str, Any] | None],
    json_file: Path | None,
) -> None:
    """Print tables for each runtime, or write the JSON where the user wants it."""
    if json_file == STANDARD_OUTPUT:
        click.echo(json_text(report))
        return
    if json_file is not None:
        write_atomically(json_file, json_text(report) + "\n")
    for result, runtime_num_hashes in zip(results, dials, strict=True):
        title = f"{out} against eager ({result.runtime}, {result.dtype})"
        print_table(title, COLUMNS, [_row(case) for case in result.cases])
        if result.passed:
            click.echo(f"\n{result.verdict()}")
        if runtime_num_hashes is not None:
            print_data(runtime_num_hashes)


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
