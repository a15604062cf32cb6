"""`run` into a folder: several files, in parts, alone or as one of several shards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reformer_export import batch
from reformer_export.batch.files_request import PART_FORMATS
from reformer_export.batch.outputs import OUTPUT_SUFFIXES, STANDARD_OUTPUT
from reformer_export.batch.ray_shards import run_on_ray
from reformer_export.cli.bad_lines import LineMessages
from reformer_export.cli.failures import end_by_signal, refuse_in_one_line
from reformer_export.cli.option_values import write_json
from reformer_export.cli.runtime_options import open_artifact
from reformer_export.cli.summary_output import totals_to_dict
from reformer_export.cli.tables import echo_on_stderr
from reformer_export.errors import EXIT_CHECK_FAILED, InputError


def folder_options(command: Callable[..., object]) -> Callable[..., object]:
    """Add --shard, --ray-shards, --part-rows and --part-format."""
    command = click.option(
        "--part-format",
        type=click.Choice(PART_FORMATS),
        help="What the parts are.  [default: parquet where all FILEs are, else jsonl]",
    )(command)
    command = click.option(
        "--part-rows",
        type=click.IntRange(min=1),
        help=f"Rows of a FILE that make one part.  [default: {batch.PART_ROWS}]",
    )(command)
    command = click.option(
        "--ray-shards",
        "shards",
        type=click.IntRange(min=1),
        help="Make N shards, each a task of the Ray cluster at RAY_ADDRESS (or of one started here).",
    )(command)
    return click.option(
        "--shard", metavar="I/N", help="Make the parts of machine I, from 0, of N machines.  [default: 0/1]"
    )(command)


def is_folder(output: Path | None, files: tuple[Path, ...], *shards: object) -> bool:
    """Whether results go into a folder; `shards` are the options that say so, if they are given."""
    if len(files) > 1 or any(option is not None for option in shards):
        return True
    if output in (None, STANDARD_OUTPUT) or output.suffix.lower() in OUTPUT_SUFFIXES:
        return False
    return output.is_dir() or not (output.suffix or output.exists())


def check_folder(output: Path | None) -> Path:
    """The folder; InputError where `output` is none, or the name of a file."""
    is_file = output is not None and output.suffix.lower() in OUTPUT_SUFFIXES
    if output in (None, STANDARD_OUTPUT) or is_file:
        got = "none" if output is None else str(output)
        raise InputError("output", got, "a folder, for several files or a shard", "name one")
    assert output is not None
    return output


def refuse_with_folder(**options: object) -> None:
    """InputError for an option that is of one file's results."""
    for name, value in options.items():
        if value:
            fix = "leave it out: finished parts are kept" if name == "resume" else "leave it out"
            raise InputError(name, "it", "--file alone, where `output` is a folder", fix)


def refuse_without_folder(**options: object) -> None:
    """InputError for an option that is of parts."""
    for name, value in options.items():
        if value is not None:
            raise InputError(name, "no folder as `output`", "one", "name one, or leave it out")


def run_into_folder(
    out: str, request: batch.FilesRequest, shards: int | None, json_file: Path | None
) -> None:
    """Make the parts, here or as `shards` tasks of Ray, and say what was done.

    The exit status is 1 where rows were skipped.
    """
    messages = LineMessages(request.on_error)
    left = f"finished parts are kept in {request.output}: the same command makes the others"
    with refuse_in_one_line("running"), end_by_signal(left):
        begun = time.perf_counter()
        if shards is None:
            runtime = open_artifact(out, request.runtime)
            manifests = [batch.run_shard(runtime, request, messages.show, echo_on_stderr)]
        else:
            manifests = run_on_ray(out, request, shards, echo_on_stderr)
        seconds = time.perf_counter() - begun
    messages.show_counts()
    totals = sum((manifest.totals for manifest in manifests), batch.Totals())
    parts = sorted(part.name for manifest in manifests for part in manifest.parts)
    values: dict[str, Any] = {"output": str(request.output), "parts": parts}
    values["shards"] = [manifest.shard for manifest in manifests]
    values |= {"sequences": totals.sequences, **totals_to_dict(totals, seconds)}
    if not write_json(json_file, values):
        skipped = f", {totals.skipped} rows skipped" if totals.skipped else ""
        click.echo(f"{len(parts)} parts of {totals.sequences} sequences are in {request.output}{skipped}")
    if totals.skipped:
        click.get_current_context().exit(EXIT_CHECK_FAILED)
