"""What `run` says on standard output: a table or JSON object a sequence, and what was done."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from reformer_export.batch import InputLine, ResultWriter, SequenceResult, Totals, summarize_result
from reformer_export.batch.outputs import STANDARD_OUTPUT
from reformer_export.batch.results import Label, NextToken, Span, Summary
from reformer_export.cli.runtime_options import find_tokenizer
from reformer_export.cli.tables import print_table
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


class SummaryTables(ResultWriter):
    """A small table a sequence; of a bad line, standard error has said it."""

    def __init__(self, summarize: Summarize) -> None:
        self._summarize = summarize

    def write(self, result: SequenceResult) -> None:
        print_table(summary_table(self._summarize(result)))


class JsonSummaries(ResultWriter):
    """One JSON object: `head`, then `sequences` as they come, then a tail."""

    def __init__(self, head: dict[str, Any], summarize: Summarize) -> None:
        self._before = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "sequences": [\n'
        self._summarize = summarize

    def write(self, result: SequenceResult) -> None:
        self._write_element(self._summarize(result).to_dict())

    def write_error(self, line: InputLine) -> None:
        self._write_element({"index": line.index, "error": line.error})

    def finish(self, tail: dict[str, Any]) -> None:
        """Close the array and the object; there was an element at least. Before the first one nothing was
        written, so that an input without a good line leaves nothing."""
        after = json.dumps(tail, indent=2).removeprefix("{\n")
        click.echo(f"\n  ],\n{after}")

    def _write_element(self, summary: dict[str, Any]) -> None:
        text = textwrap.indent(json.dumps(summary, indent=2), "    ")
        click.echo(self._before + text, nl=False)
        self._before = ",\n"


def make_summaries(runtime: Runtime, as_json: bool) -> SummaryTables | JsonSummaries:
    """A writer of summaries on standard output."""
    tokenizer = find_tokenizer(runtime)

    def summarize(result: SequenceResult) -> Summary:
        return summarize_result(result, runtime.spec, runtime.config, tokenizer)

    if not as_json:
        return SummaryTables(summarize)
    head = {
        "artifact": str(runtime.folder),
        "task": runtime.spec.task,
        "runtime": runtime.description,
        "providers": list(runtime.providers),
    }
    return JsonSummaries(head, summarize)


def report_totals(
    totals: Totals, seconds: float, output: Path | None, writer: ResultWriter, as_json: bool
) -> None:
    """Say what was done: a line on standard error, and the result or its place on standard output."""
    if totals.sequences + totals.skipped > 1:
        rate = totals.sequences / max(seconds, 1e-9)
        click.echo(
            f"Done: {totals.sequences} sequences, {totals.skipped} skipped, {totals.tokens} tokens in "
            f"{seconds:.1f} s ({rate:.4g} sequences/s), padding {totals.padding_share:.1%}",
            err=True,
        )
    report = {
        "skipped": totals.skipped,
        "tokens": totals.tokens,
        "padding_share": totals.padding_share,
        "seconds": seconds,
    }
    if isinstance(writer, JsonSummaries):
        writer.finish(report)
    elif output not in (None, STANDARD_OUTPUT):
        values = {"output": str(output), "sequences": totals.sequences, **report}
        click.echo(json.dumps(values) if as_json else f"Wrote {totals.sequences} to {output}")


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
