"""`reformer-export run`: one forward pass over texts, token ids or files of them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from reformer_export.batch.batching import Batching, Totals, run_window, windows_from_lines
from reformer_export.batch.outputs import STANDARD_OUTPUT, ResultWriter
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.resume import Identity
from reformer_export.batch.sequences import InputLine, SequenceReader, Source
from reformer_export.batch.sources import LINE_FORMATS, find_format, open_source
from reformer_export.cli.bad_lines import LineMessages, OnError
from reformer_export.cli.failures import EXIT_OF_SIGNAL_BASE, leave_on_termination, refuse_in_one_line
from reformer_export.cli.result_target import Target
from reformer_export.cli.runtime_options import (
    describe_execution,
    open_artifact,
    runtime_options,
)
from reformer_export.cli.stream_progress import show_stream_progress
from reformer_export.cli.summary_output import JsonSummaries
from reformer_export.cli.tables import accept_any_text
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.runtimes import LeftPaddingWarning, Runtime, RuntimeOptions
from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime
from reformer_export.runtimes.tokenizer import load_tokenizer

DEFAULT_WINDOW: Final = 1024
SIGPIPE_NUMBER: Final = 13


@click.command("run")
@click.argument("out", type=click.Path())
@click.argument("text", nargs=-1)
@click.option("--ids", multiple=True, metavar="N,N,...", help="Token ids of one sequence; repeatable.")
@click.option(
    "--file", type=click.Path(path_type=Path), help="A file of sequences, see above; - for standard input."
)
@click.option(
    "--format",
    "line_format",
    type=click.Choice(LINE_FORMATS),
    help="What the lines of --file are; by default the name says it, and standard input is jsonl.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write all outputs to a .jsonl or .npz file; - for JSON lines on standard output.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="At most so many sequences at a time; default: 1, or with --batch-tokens any number.",
)
@click.option(
    "--batch-tokens", type=click.IntRange(min=1), help="At most so many tokens at a time, padding included."
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=DEFAULT_WINDOW,
    show_default=True,
    help="Lines among which sequences for a batch are looked for; fewer where outputs are large.",
)
@click.option(
    "--pad",
    is_flag=True,
    help="Let a batch mix all lengths. Its shorter rows are padded, which changes their answers slightly.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a bad line does; the output says of a skipped one what is wrong.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, if there is one.")
@click.option("--restart", is_flag=True, help="Start again, whatever an interrupted run has left.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_options
def command(
    out: str,
    text: tuple[str, ...],
    ids: tuple[str, ...],
    file: Path | None,
    line_format: str | None,
    output: Path | None,
    batch_size: int | None,
    batch_tokens: int | None,
    window: int,
    pad: bool,
    on_error: OnError,
    resume: bool,
    restart: bool,
    as_json: bool,
    choice: RuntimeOptions,
) -> None:
    """Run the artifact in the folder OUT once over each TEXT.

    Prints summaries, or writes every output in float32 with --output. FILE is a text file with a sequence
    a line, a .jsonl file with {"text": ...} or {"input_ids": [...]} a line, or a .npz or .npy file with
    input_ids [batch, sequence] (and attention_mask). It may be of any size: it is read, and results are
    written, as they come and in order.

    A batch holds only sequences that give the same answers together as alone (the model pads them to one
    length), unless --pad says otherwise.

    A run over a file into a .jsonl that ends early keeps its lines in OUTPUT.partial; the same command
    with --resume goes on after them.

    Exit status: 0 all done; 1 done, but lines were skipped; 2 the input or an option is at fault.

    \b
    Examples:
      reformer-export run OUT "In the beginning"
      reformer-export run OUT --ids 75,112,34
      reformer-export run OUT --file lines.txt --output logits.npz
      reformer-export run OUT --file all.jsonl --output all-out.jsonl --batch-size 32 --on-error skip
      reformer-export run OUT --file all.jsonl --output all-out.jsonl --batch-size 32 --resume
      zcat all.jsonl.gz | reformer-export run OUT --file - --output - | gzip > all-out.jsonl.gz
      reformer-export run OUT --runtime tensorrt-rtx "In the beginning"
    """
    accept_any_text()
    rows = batch_size if batch_size is not None or batch_tokens is not None else 1
    batching = Batching(rows, batch_tokens, window, mixes_lengths=pad)
    target = Target(output, as_json, resume, restart)
    target.check()
    left = "nothing half-written was left behind" if output is None else f"{output} is as it was"
    with refuse_in_one_line("running"), end_by_signal(left), ExitStack() as resources:
        runtime = open_artifact(out, choice)
        get_tokenizer = functools.partial(load_tokenizer, runtime.folder, runtime.spec.vocab_size)
        reader = SequenceReader(runtime.spec, runtime.max_length, get_tokenizer)
        source = open_source(text, ids, file, line_format, reader, resources)
        identity: Identity = {
            **identity_of_artifact(runtime),
            **asdict(batching),
            "format": None if file is None else find_format(file, line_format),
        }
        totals = run_to_target(runtime, source, batching, on_error, target, identity)
    if totals.skipped:
        click.get_current_context().exit(EXIT_CHECK_FAILED)


def run_to_target(
    runtime: Runtime,
    source: Source,
    batching: Batching,
    on_error: OnError,
    target: Target,
    identity: Identity,
) -> Totals:
    """Run what the source holds, write it, and say what was done; returns the totals."""
    totals, messages, begun = Totals(), LineMessages(), time.perf_counter()
    with target.open(runtime, source, totals, identity) as writer:
        lines = messages.watch(source, on_error)
        # A bar would stand between the results on a terminal.
        has_bar = target.path not in (None, STANDARD_OUTPUT) or not sys.stdout.isatty()
        run_lines(runtime, source, batching, totals, writer, lines, has_bar=has_bar)
        if totals.sequences + totals.skipped == 0:
            raise InputError("--file: got a file without a line, expected at least one sequence; fill it")
    seconds = time.perf_counter() - begun
    messages.show_counts()
    if totals.sequences + totals.skipped > 1:
        click.echo(describe_totals(totals, seconds), err=True)
    report = {
        "skipped": totals.skipped,
        "tokens": totals.tokens,
        "padding_share": totals.padding_share,
        "seconds": seconds,
    }
    if isinstance(writer, JsonSummaries):
        writer.finish(report)
    elif target.path is not None and target.path != STANDARD_OUTPUT:
        values = {"output": str(target.path), "sequences": totals.sequences, **report}
        click.echo(json.dumps(values) if target.as_json else f"Wrote {totals.sequences} to {target.path}")
    return totals


def run_lines(
    runtime: Runtime,
    source: Source,
    batching: Batching,
    totals: Totals,
    writer: ResultWriter,
    lines: Iterator[InputLine],
    *,
    has_bar: bool,
) -> None:
    """Run `lines`, which are the source's, window by window."""
    with (
        warnings.catch_warnings(),
        show_stream_progress("Sequences", source, has_bar=has_bar) as progress,
    ):
        warnings.simplefilter("ignore", LeftPaddingWarning)  # which the lines' own warnings have said
        for window in windows_from_lines(lines, batching, runtime.spec):
            progress.begin_window(len(window))
            for result in run_window(runtime, window, batching, totals, progress.advance):
                if isinstance(result, SequenceResult):
                    writer.write(result)
                else:
                    writer.write_error(result)
            writer.end_window(source.consumed, totals)


def describe_totals(totals: Totals, seconds: float) -> str:
    """What was done, in a line."""
    rate = totals.sequences / max(seconds, 1e-9)
    return (
        f"Done: {totals.sequences} sequences, {totals.skipped} skipped, {totals.tokens} tokens in "
        f"{seconds:.1f} s ({rate:.4g} sequences/s), padding {totals.padding_share:.1%}"
    )


def identity_of_artifact(runtime: Runtime) -> Identity:
    """What of the artifact and its runtime decides results, to the last bit."""
    files = json.dumps(runtime.manifest.files, sort_keys=True)
    return {
        "artifact": hashlib.sha256(files.encode()).hexdigest(),
        "execution": describe_execution(runtime),
        "engine": runtime.record.engine_sha256 if isinstance(runtime, TensorRTRuntime) else None,
    }


@contextmanager
def end_by_signal(left: str) -> Iterator[None]:
    """Leave with 128 + the signal's number, saying what is `left`, on SIGTERM, SIGHUP and Ctrl-C; silently
    when nobody reads standard output any more."""
    with leave_on_termination(left):
        try:
            yield
        except KeyboardInterrupt:
            click.echo(f"Interrupted: {left}.", err=True)
            raise SystemExit(EXIT_OF_SIGNAL_BASE + signal.SIGINT) from None
        except BrokenPipeError:
            # Python would write what it still holds at the end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(EXIT_OF_SIGNAL_BASE + SIGPIPE_NUMBER) from None
