"""`reformer-export doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from reformer_export.cli.option_names import Command, name_fields
from reformer_export.cli.option_values import json_file_option, write_json
from reformer_export.cli.run import command as run
from reformer_export.cli.tables import print_table
from reformer_export.errors import EXIT_CHECK_FAILED
from reformer_export.report.tables import machine_tables
from reformer_export.runtimes.machine import inspect_machine


@click.command("doctor", cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_file_option
@click.pass_context
def command(ctx: click.Context, path: Path | None, json_file: Path | None) -> None:
    """Say what this machine can run and what is missing, and whether it can run PATH.

    PATH is an artifact's folder, which is run on one token, or an .onnx file, which is opened. Exit status
    1 when nothing can be run here, or PATH cannot.

    \b
    Examples:
      reformer-export doctor
      reformer-export doctor OUT
      reformer-export doctor some.onnx --json
    """
    report = inspect_machine(path)
    values = {**dataclasses.asdict(report), "can_run": report.can_run}
    if not write_json(json_file, _name_fields(values)):
        for table in machine_tables(report):
            print_table(dataclasses.replace(table, rows=_name_fields(table.rows)))
    if not report.can_run:
        ctx.exit(EXIT_CHECK_FAILED)


def _name_fields(values: Any) -> Any:
    """`values`, whose texts hold errors of the library, in the flags of `run`."""
    if isinstance(values, str):
        return name_fields(values, run)
    if isinstance(values, dict):
        return {name: _name_fields(value) for name, value in values.items()}
    return [_name_fields(value) for value in values] if isinstance(values, list | tuple) else values
