"""What `run` says on standard output: a table or JSON object a sequence, and what was done."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from reformer_export.artifact.files import replace_file
from reformer_export.batch import (
    InputLine,
    OutputSelection,
    ResultWriter,
    SequenceResult,
    Totals,
    find_tokenizer,
    summarize_result,
)
from reformer_export.batch.outputs import STANDARD_OUTPUT
from reformer_export.batch.results import TOP_TOKENS, Label, NextToken, Span, Summary
from reformer_export.cli.option_values import write_json
from reformer_export.cli.tables import print_table
from reformer_export.errors import InputError
from reformer_export.report.tables import Columns, Table, make_facts, make_table
from reformer_export.runtimes import Runtime

NEXT_TOKENS: Final[Columns[NextToken]] = {
    "next token": lambda token: token.id,
    "probability": lambda token: f"{token.probability:.4f}",
    "text": lambda token: "" if token.text is None else repr(token.text),
}

LABELS: Final[Columns[Label]] = {
    "label": lambda label: label.label,
    "probability": lambda label: f"{label.probability:.4f}",
}

SPANS: Final[Columns[Span]] = {
    "answer": lambda span: f"tokens {span.start} to {span.end}",
    "score": lambda span: f"{span.score:.4f}",
    "text": lambda span: repr(span.text or ""),
}

Summarize = Callable[[SequenceResult], Summary]


class Summaries(ResultWriter):
    """A small table a sequence, or one JSON object, or both; of a bad line, standard error has said it."""

    def __init__(self, summarize: Summarize, json: JsonSummaries | None, *, has_tables: bool) -> None:
        self._summarize = summarize
        self._json = json
        self._has_tables = has_tables

    def write(self, result: SequenceResult) -> None:
        summary = self._summarize(result)
        if self._has_tables:
            print_table(summary_table(summary))
        if self._json is not None:
            self._json.write(summary)

    def write_error(self, line: InputLine) -> None:
        if self._json is not None:
            self._json.write_error(line)

    def finish(self, tail: dict[str, Any]) -> None:
        """All sequences are there; `tail` is what was done."""
        if self._json is not None:
            self._json.finish(tail)


class JsonSummaries:
    """One JSON object: `head`, then `sequences` as they come, then a tail."""

    def __init__(self, head: dict[str, Any], put: Callable[[str], object]) -> None:
        """`put` takes the text in pieces."""
        self._put = put
        self._before = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "sequences": [\n'

    def write(self, summary: Summary) -> None:
        self.write_values(summary.to_dict())

    def write_error(self, line: InputLine) -> None:
        self.write_values({"index": line.index, "error": line.error})

    def finish(self, tail: dict[str, Any]) -> None:
        """Close the array and the object; there was an element at least. Before the first one nothing was
        written, so that an input without a good line leaves nothing."""
        after = json.dumps(tail, indent=2).removeprefix("{\n")
        self._put(f"\n  ],\n{after}\n")

    def write_values(self, summary: dict[str, Any]) -> None:
        """A sequence in JSON values."""
        text = textwrap.indent(json.dumps(summary, indent=2), "    ")
        self._put(self._before + text)
        self._before = ",\n"


@contextmanager
def open_summaries(runtime: Runtime, json_file: Path | None, top_k: int | None) -> Iterator[Summaries]:
    """A writer of summaries: tables on standard output, or JSON there; a `json_file` is whole when the block
    ends well. Of the next tokens, the `top_k` likeliest are shown, as many as ever where it is None."""
    if top_k is not None:
        _check_top_k(top_k, runtime)
    tokenizer = find_tokenizer(runtime)

    def summarize(result: SequenceResult) -> Summary:
        return summarize_result(result, runtime.spec, runtime.config, tokenizer, top_k or TOP_TOKENS)

    if json_file is None:
        yield Summaries(summarize, None, has_tables=True)
        return
    head = {
        "artifact": str(runtime.folder),
        "task": runtime.spec.task,
        "runtime": runtime.description,
        "providers": list(runtime.providers),
    }
    if json_file == STANDARD_OUTPUT:
        yield Summaries(summarize, JsonSummaries(head, partial(click.echo, nl=False)), has_tables=False)
        return
    with replace_file(json_file) as stream:
        json = JsonSummaries(head, lambda text: stream.write(text.encode()))
        yield Summaries(summarize, json, has_tables=True)


def _check_top_k(top_k: int, runtime: Runtime) -> None:
    OutputSelection(top_k).check(runtime.spec)
    if runtime.spec.task != "text-generation":
        got, fix = "no --output", "write one, or leave it out"
        raise InputError("top_k", got, f"one, for an artifact for {runtime.spec.task}", fix)


def totals_to_dict(totals: Totals, seconds: float) -> dict[str, Any]:
    """What was done, in JSON values."""
    return {
        "skipped": totals.skipped,
        "tokens": totals.tokens,
        "padding_share": totals.padding_share,
        "seconds": seconds,
    }


def report_totals(totals: Totals, seconds: float, output: Path | None, json_file: Path | None) -> None:
    """Say what was done: a line on standard error, and where an output is, on standard output or as JSON."""
    if totals.sequences + totals.skipped > 1:
        rate = totals.sequences / max(seconds, 1e-9)
        click.echo(
            f"Done: {totals.sequences} sequences, {totals.skipped} skipped, {totals.tokens} tokens in "
            f"{seconds:.1f} s ({rate:.4g} sequences/s), padding {totals.padding_share:.1%}",
            err=True,
        )
    if output is None:
        return
    values = {"output": str(output), "sequences": totals.sequences, **totals_to_dict(totals, seconds)}
    if not write_json(json_file, values) and output != STANDARD_OUTPUT:
        count = f"{totals.sequences} sequence{'s' * (totals.sequences != 1)}"
        click.echo(f"Wrote {count} to {output}")


def summary_table(summary: Summary) -> Table:
    """What the model answered to a sequence."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in summary.outputs.items())
    title = f"Sequence {summary.index}: {summary.tokens} tokens -> {shapes}"
    if summary.next_tokens is not None:
        return make_table(title, NEXT_TOKENS, summary.next_tokens)
    if summary.labels is not None:
        return make_table(title, LABELS, summary.labels)
    if summary.span is not None:
        return make_table(title, SPANS, [summary.span])
    if summary.likeliest_ids is not None:
        return make_facts(title, [("likeliest ids", ",".join(map(str, summary.likeliest_ids)))])
    assert summary.values is not None
    values = dataclasses.asdict(summary.values)
    return make_facts(title, [(name, f"{value:.6g}") for name, value in values.items()])
