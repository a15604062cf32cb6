"""Summaries on standard output, one after the other: tables for people, or one JSON object."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any, Final

import click

from reformer_export.batch.batching import Totals
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.sequences import Consumed, InputLine
from reformer_export.cli.tables import print_table
from reformer_export.report.tables import Columns, make_facts, make_table

NEXT_TOKENS: Final[Columns[dict[str, Any]]] = {
    "next token": lambda token: token["id"],
    "probability": lambda token: f"{token['probability']:.4f}",
    "text": lambda token: "" if token["text"] is None else repr(token["text"]),
}

LABELS: Final[Columns[dict[str, Any]]] = {
    "label": lambda label: label["label"],
    "probability": lambda label: f"{label['probability']:.4f}",
}

SPANS: Final[Columns[dict[str, Any]]] = {
    "answer": lambda span: f"tokens {span['start']} to {span['end']}",
    "score": lambda span: f"{span['score']:.4f}",
    "text": lambda span: repr(span["text"] or ""),
}

Summarize = Callable[[SequenceResult], dict[str, Any]]


class SummaryTables:
    """A small table a sequence; implements `ResultWriter`."""

    def __init__(self, summarize: Summarize) -> None:
        self._summarize = summarize

    def write(self, result: SequenceResult) -> None:
        print_summary(self._summarize(result))

    def write_error(self, line: InputLine) -> None:
        """Nothing: standard error has said it."""

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        """Nothing to do: all is on standard output."""


class JsonSummaries:
    """One JSON object: `head`, then `sequences` as they come, then a tail; implements `ResultWriter`."""

    def __init__(self, head: dict[str, Any], summarize: Summarize) -> None:
        self._before = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "sequences": [\n'
        self._summarize = summarize

    def write(self, result: SequenceResult) -> None:
        self._write_element(self._summarize(result))

    def write_error(self, line: InputLine) -> None:
        self._write_element({"index": line.index, "error": line.error})

    def end_window(self, consumed: Consumed, totals: Totals) -> None:
        """Nothing to do: all is on standard output."""

    def finish(self, tail: dict[str, Any]) -> None:
        """Close the array and the object; there was an element at least. Before the first one nothing was
        written, so that an input without a good line leaves nothing."""
        after = json.dumps(tail, indent=2).removeprefix("{\n")
        click.echo(f"\n  ],\n{after}")

    def _write_element(self, summary: dict[str, Any]) -> None:
        text = textwrap.indent(json.dumps(summary, indent=2), "    ")
        click.echo(self._before + text, nl=False)
        self._before = ",\n"


def print_summary(summary: dict[str, Any]) -> None:
    """A summary of `summarize_result` as a table."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in summary["outputs"].items())
    title = f"Sequence {summary['index']}: {summary['tokens']} tokens -> {shapes}"
    if "next_tokens" in summary:
        print_table(make_table(title, NEXT_TOKENS, summary["next_tokens"]))
    elif "labels" in summary:
        print_table(make_table(title, LABELS, summary["labels"]))
    elif "span" in summary:
        print_table(make_table(title, SPANS, [summary["span"]]))
    elif "likeliest_ids" in summary:
        print_table(make_facts(title, [("likeliest ids", ",".join(map(str, summary["likeliest_ids"])))]))
    else:
        print_table(make_facts(title, [(name, f"{value:.6g}") for name, value in summary["values"].items()]))
