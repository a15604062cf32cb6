"""`reformer-export run`: one forward pass over texts, token ids or files."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from reformer_export.cli.results import (
    SequenceResult,
    check_output_path,
    summarize_result,
    write_results,
)
from reformer_export.cli.runtime_options import find_tokenizer, open_artifact, runtime_options
from reformer_export.cli.sequences import InputSequence, read_sequences
from reformer_export.cli.tables import accept_any_text, print_table, show_progress
from reformer_export.native import NativeMode
from reformer_export.runtimes import LeftPaddingWarning, Runtime
from reformer_export.runtimes.tokenizer import load_tokenizer


@click.command("run")
@click.argument("out", type=click.Path())
@click.argument("text", nargs=-1)
@click.option("--ids", multiple=True, metavar="N,N,...", help="Token ids of one sequence; repeatable.")
@click.option("--file", type=click.Path(path_type=Path), help="A file of sequences, see above.")
@click.option("--output", type=click.Path(path_type=Path), help="Write all outputs to a .npz or .jsonl file.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Sequences at a time. Shorter ones are padded to the longest, which changes their answer slightly.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_options
def command(
    out: str,
    text: tuple[str, ...],
    ids: tuple[str, ...],
    file: Path | None,
    output: Path | None,
    batch_size: int,
    as_json: bool,
    provider: str,
    threads: int | None,
    native: NativeMode,
) -> None:
    """Run the artifact in the folder OUT once over each TEXT.

    Prints a summary, or writes every output in float32 with --output. FILE is a text file with a sequence
    a line, a .jsonl file with {"text": ...} or {"input_ids": [...]} a line, or a .npz or .npy file with
    input_ids [batch, sequence] (and attention_mask).

    \b
    Examples:
      reformer-export run OUT "In the beginning"
      reformer-export run OUT --ids 75,112,34
      reformer-export run OUT --file lines.txt --output logits.npz
    """
    accept_any_text()
    if output is not None:
        check_output_path(output)
    runtime = open_artifact(out, provider, threads, native)
    get_tokenizer = functools.partial(load_tokenizer, runtime.folder, runtime.spec.vocab_size)
    sequences = read_sequences(text, ids, file, get_tokenizer)
    results = run_sequences(runtime, sequences, batch_size)
    if output is not None:
        count = write_results(output, results)
        line = (
            json.dumps({"output": str(output), "sequences": count})
            if as_json
            else f"Wrote {count} to {output}"
        )
        click.echo(line)
        return
    tokenizer = find_tokenizer(runtime.folder, runtime.spec.vocab_size)
    summaries = [summarize_result(result, runtime.spec, runtime.config, tokenizer) for result in results]
    if as_json:
        report = {"artifact": out, "task": runtime.spec.task, "providers": list(runtime.providers)}
        click.echo(json.dumps({**report, "sequences": summaries}, indent=2))
        return
    for summary in summaries:
        _print_summary(summary)


def run_sequences(
    runtime: Runtime, sequences: list[InputSequence], batch_size: int
) -> Iterator[SequenceResult]:
    """Run the sequences in batches, in order; each result without its batch's padding."""
    spec = runtime.spec
    per_token = spec.task != "text-classification" and spec.logits == "all"
    with show_progress("Sequences", len(sequences)) as advance:
        for start in range(0, len(sequences), batch_size):
            batch = sequences[start : start + batch_size]
            outputs = _run_batch(runtime, batch, start)
            for row, sequence in enumerate(batch):
                length = len(sequence.ids) if per_token else None
                values = {name: value[row][:length] for name, value in outputs.items()}
                yield SequenceResult(start + row, sequence, values)
            advance(len(batch))


def _run_batch(runtime: Runtime, batch: list[InputSequence], start: int) -> dict[str, Any]:
    masked = any(sequence.mask is not None for sequence in batch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftPaddingWarning)
        outputs = runtime.run(
            [sequence.ids for sequence in batch],
            [sequence.mask_or_ones for sequence in batch] if masked else None,
        )
    for warning in caught:
        click.echo(f"Warning: sequences from {start}: {warning.message}", err=True)
    return outputs


def _print_summary(summary: dict[str, Any]) -> None:
    shapes = ", ".join(f"{name} {shape}" for name, shape in summary["outputs"].items())
    title = f"Sequence {summary['index']}: {summary['tokens']} tokens -> {shapes}"
    if "next_tokens" in summary:
        rows = [
            (token["id"], f"{token['probability']:.4f}", "" if token["text"] is None else repr(token["text"]))
            for token in summary["next_tokens"]
        ]
        print_table(title, ("next token", "probability", "text"), rows)
    elif "labels" in summary:
        rows = [(row["label"], f"{row['probability']:.4f}", "") for row in summary["labels"]]
        print_table(title, ("label", "probability", ""), rows)
    elif "span" in summary:
        span = summary["span"]
        rows = [
            (f"tokens {span['start']} to {span['end']}", f"{span['score']:.4f}", repr(span["text"] or ""))
        ]
        print_table(title, ("answer", "score", "text"), rows)
    elif "likeliest_ids" in summary:
        print_table(title, ("", ""), [("likeliest ids", ",".join(map(str, summary["likeliest_ids"])))])
    else:
        print_table(title, ("", ""), [(name, f"{value:.6g}") for name, value in summary["values"].items()])
