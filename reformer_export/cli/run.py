"""`reformer-export run`: one forward pass over texts, token ids or files of them."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np

from reformer_export import batch
from reformer_export.batch.lines import LineFormat
from reformer_export.batch.outputs import RESUMABLE, STANDARD_OUTPUT
from reformer_export.batch.sequences import ids_from_text
from reformer_export.batch.sources import LINE_FORMATS
from reformer_export.cli.bad_lines import LineMessages
from reformer_export.cli.failures import end_by_signal, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import json_file_option, refuse_file_name, write_json
from reformer_export.cli.run_folder import (
    check_folder,
    folder_options,
    is_folder,
    refuse_with_folder,
    refuse_without_folder,
    run_into_folder,
)
from reformer_export.cli.run_named import check_named, run_named_file
from reformer_export.cli.runtime_options import RUNTIME_SECTIONS, open_artifact, runtime_options
from reformer_export.cli.stream_progress import show_stream_progress
from reformer_export.cli.summary_output import Summaries, open_summaries, report_totals, totals_to_dict
from reformer_export.cli.tables import echo_on_stderr
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.runtimes import RuntimeOptions

SECTIONS = {
    "Input": ("ids", "file", "line_format", "on_error"),
    "Output": ("output", "top_k", "last", "json_file", "resume", "restart"),
    "Folders": ("shard", "shards", "part_rows", "part_format"),
    "Batches": ("rows", "tokens", "window", "mixes_lengths"),
    **RUNTIME_SECTIONS,
}


@click.command("run", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.argument("text", nargs=-1)
@click.option("--ids", multiple=True, metavar="N,N,...", help="Token ids of one sequence; repeatable.")
@click.option(
    "--file",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file of sequences, see above; - for standard input.",
)
@click.option(
    "--format",
    "line_format",
    type=click.Choice(LINE_FORMATS),
    help="What the lines of --file are.  [default: as the name says; of standard input jsonl]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write all outputs to a .jsonl (or .ndjson) or .npz file, or into a folder; - for JSON lines on "
    "standard output.",
)
@folder_options
@click.option(
    "--batch-size",
    "rows",
    type=click.IntRange(min=1),
    help="At most so many sequences at a time.  [default: 1, with --batch-tokens any number]",
)
@click.option(
    "--batch-tokens",
    "tokens",
    type=click.IntRange(min=1),
    help="At most so many tokens at a time, padding included.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=batch.Batching.window,
    help="Lines among which sequences for a batch are looked for; fewer where outputs are large.",
)
@click.option(
    "--pad",
    "mixes_lengths",
    is_flag=True,
    help="Let a batch mix all lengths. Its shorter rows are padded, which changes their answers slightly.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    help="What a bad line does; the output says of a skipped one what is wrong.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Of logits, the N likeliest tokens only: ids, logits, probabilities and, with a tokenizer, texts.",
)
@click.option("--last", is_flag=True, help="Of logits, those of the last attended token only.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an interrupted run, if there is one; nothing is done where OUTPUT is finished.",
)
@click.option("--restart", is_flag=True, help="Start again, whatever an interrupted run has left.")
@json_file_option
@runtime_options
def command(
    out: str,
    text: tuple[str, ...],
    ids: tuple[str, ...],
    file: tuple[Path, ...],
    line_format: LineFormat | None,
    output: Path | None,
    shard: str | None,
    shards: int | None,
    part_rows: int | None,
    part_format: batch.PartFormat | None,
    on_error: batch.OnError,
    top_k: int | None,
    last: bool,
    resume: bool,
    restart: bool,
    json_file: Path | None,
    choice: RuntimeOptions,
    **batches: Any,
) -> None:
    """Run the artifact in the folder OUT once over each TEXT.

    Prints summaries, or writes every output in float32 with --output. FILE is a .txt file (or a
    name without an ending) with a sequence a line, a .jsonl or .ndjson file with {"text": ...} or
    {"input_ids": [...]} a line, a .parquet file with a column of one of these names, or a .npz or .npy file
    with input_ids [batch, sequence] (and attention_mask); of another name, --format says what its lines are.
    It may be of any size: it is read, and results are written, as they come and in order.

    A batch holds only sequences that give the same answers together as alone (the model pads them to one
    length), unless --pad says otherwise.

    A custom module's FILE is a .npz with its inputs by name, and so is its output; --batch-size rows run at a
    time, or all together.

    Logits are large: as JSON, a token's are several kilobytes. --last and --top-k write less.

    A run over a file into a .jsonl that ends early keeps its lines in OUTPUT.partial; the same command
    with --resume goes on after them.

    Where OUTPUT is a folder (or a name without an ending, or there is --shard), --file may be given several
    times, and as a glob in quotes. It gets a file for every so many rows of a FILE, each whole or not there,
    with the input's other fields beside the results. The same command again makes what is missing; --shard
    I/N makes every N-th part, on one of N machines, and --ray-shards N lets a Ray cluster make them all.

    Exit status: 0 all done; 1 done, but lines were skipped; 2 the input or an option is at fault.

    \b
    Examples:
      reformer-export run OUT "In the beginning"
      reformer-export run OUT --ids 75,112,34
      reformer-export run OUT --file lines.txt --output logits.npz
      reformer-export run OUT --file lines.txt --output next.jsonl --last --top-k 5
      reformer-export run OUT --file all.jsonl --output all-out.jsonl --batch-size 32 --on-error skip
      reformer-export run OUT --file all.jsonl --output all-out.jsonl --batch-size 32 --resume
      zcat all.jsonl.gz | reformer-export run OUT --file - --output - | gzip > all-out.jsonl.gz
      reformer-export run OUT --file "data/*.parquet" --output results --batch-size 32
      reformer-export run OUT --file "data/*.jsonl" --output results --shard 0/3
      reformer-export run OUT --file inputs.npz --output outputs.npz
      reformer-export run OUT --runtime tensorrt-rtx "In the beginning"
    """
    rows = batches["rows"]
    if rows is None and batches["tokens"] is None:
        batches["rows"] = 1
    batching = batch.Batching(**batches)
    for each in text:
        refuse_file_name(each, "--file")
    selection = batch.OutputSelection(top_k, last)
    if is_folder(output, file, shard, shards):
        refuse_with_folder(TEXT=text, ids=ids, resume=resume, restart=restart)
        rows_of_part = batch.PART_ROWS if part_rows is None else part_rows
        request = batch.FilesRequest(
            *(file, check_folder(output), shard or "0/1", rows_of_part, part_format, line_format, on_error),
            *(batching, selection, choice),
        )
        run_into_folder(out, request, shards, json_file)
        return
    refuse_without_folder(part_rows=part_rows, part_format=part_format)
    path = file[0] if file else None
    target = _check_output(output, json_file, resume, restart, selection)
    if target is not None and target.is_finished:
        click.echo(f"{output} is finished: nothing was done. --restart would write it anew.", err=True)
        write_json(json_file, {"output": str(output), "sequences": 0, **totals_to_dict(batch.Totals(), 0.0)})
        return
    left = "nothing half-written was left behind" if output is None else f"{output} is as it was"
    messages = LineMessages(on_error)
    with refuse_in_one_line("running"), end_by_signal(left):
        runtime = open_artifact(out, choice)
        if runtime.manifest.is_custom:
            check_named(
                {"TEXT": text, "ids": ids, "line_format": line_format, "resume": resume, "restart": restart}
                | {"top_k": top_k, "last": last, "on_error": on_error == "skip"}
                | {"tokens": batching.tokens, "mixes_lengths": batching.mixes_lengths}
            )
            run_named_file(runtime, file, output, rows, json_file)
            return
        with open_source(batch.SequenceReader.of(runtime), text, ids, path, line_format) as source:
            begun = time.perf_counter()
            writing: AbstractContextManager[batch.ResultWriter] = (
                open_summaries(runtime, json_file, top_k)
                if target is None
                else batch.open_output(target, runtime, source, batching, echo_on_stderr)
            )
            # A bar would stand between the results on a terminal.
            has_bar = output not in (None, STANDARD_OUTPUT) or not sys.stdout.isatty()
            with writing as writer, show_stream_progress(source, has_bar=has_bar) as show:
                totals = batch.run_batches(runtime, source, writer, batching, messages.show, show)
                seconds = time.perf_counter() - begun
                if isinstance(writer, Summaries):
                    writer.finish(totals_to_dict(totals, seconds))
        messages.show_counts()
        report_totals(totals, seconds, output, json_file)
    if totals.skipped:
        click.get_current_context().exit(EXIT_CHECK_FAILED)


def _check_output(
    output: Path | None,
    json_file: Path | None,
    resume: bool,
    restart: bool,
    selection: batch.OutputSelection,
) -> batch.Output | None:
    """Refuse, before any work, what cannot be written or does not fit together."""
    if output is not None:
        target = batch.Output(output, resume, restart, selection)
        if output == STANDARD_OUTPUT == json_file:
            raise InputError("--json", "--output - too", "one of them on standard output", "choose")
        return target
    if selection.last:
        raise InputError("--last", "no --output", "one", "write one, or leave it out")
    if resume or restart:
        what = "--resume" if resume else "--restart"
        raise InputError(what, "no --output", RESUMABLE, "write one, or leave it out")
    return None


def open_source(
    reader: batch.SequenceReader,
    texts: tuple[str, ...],
    ids: tuple[str, ...],
    file: Path | None,
    line_format: LineFormat | None,
) -> AbstractContextManager[batch.Source]:
    """The sequences from exactly one of `texts`, `ids` and `file`."""
    given = [name for name, value in (("TEXT", texts), ("--ids", ids), ("--file", file)) if value]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise InputError("input", got, "one of TEXT, --ids, --file", "give one (--file - is standard input)")
    if file is not None:
        return batch.open_file(file, reader, line_format)
    if line_format is not None:
        raise InputError("--format", f"{line_format} for {given[0]}", "it with --file", "leave it out")
    rows = [np.array(ids_from_text("ids", row)) for row in ids]
    lines = [reader.check(i, f"--ids {i}", row, None) for i, row in enumerate(rows)]
    lines += [reader.read_text(i, f"TEXT {i}", text) for i, text in enumerate(texts)]
    return nullcontext(batch.GivenSequences(lines))
