"""`reformer-export inspect`: an artifact, an .onnx file or an engine, in words."""

from __future__ import annotations

from pathlib import Path

import click

from reformer_export.artifact.engine_state import EngineState
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import json_file_option, report_option, write_json
from reformer_export.cli.tables import print_table
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.report import write_report
from reformer_export.report.inspect_page import page_from_inspect
from reformer_export.report.inspection_tables import inspection_tables
from reformer_export.runtimes.inspection import describe_problem, inspect_path


@click.command("inspect", cls=Command)
@click.argument("path", type=click.Path())
@json_file_option
@report_option
@click.pass_context
def command(ctx: click.Context, /, path: str, json_file: Path | None, report_file: Path | None) -> None:
    """Say what PATH is: an artifact's folder, an .onnx file or an engine, and what `run` would use here.

    Nothing is run. Exit status 1 when a file or an engine is not as it was written.

    \b
    Examples:
      reformer-export inspect OUT
      reformer-export inspect OUT/model.onnx --json
      reformer-export inspect OUT/engines/tensorrt-rtx.engine
      reformer-export inspect OUT --report artifact.html
    """
    found = inspect_path(path)
    if report_file is not None:
        if isinstance(found, EngineState):
            raise InputError("report_file", f"the engine {path}", "an artifact's folder", "give that")
        write_report(report_file, page_from_inspect(found))
    if not write_json(json_file, found.to_dict()):
        for table in inspection_tables(path, found):
            print_table(table)
    problem = describe_problem(found)
    if problem:
        click.echo(f"Error: {path}: {problem}", err=True)
        ctx.exit(EXIT_CHECK_FAILED)
