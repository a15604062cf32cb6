"""`reformer-export inspect`: an artifact, an .onnx file, an engine or a Triton repository, in words."""

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
from reformer_export.report.page import Page
from reformer_export.report.tables import Table
from reformer_export.runtimes.inspection import Inspection, describe_problem, inspect_path
from reformer_export.serving.triton.inspection import RepositorySummary, inspect_repository
from reformer_export.serving.triton.record import is_repository


@click.command("inspect", cls=Command)
@click.argument("path", type=click.Path())
@json_file_option
@report_option
@click.pass_context
def command(ctx: click.Context, /, path: str, json_file: Path | None, report_file: Path | None) -> None:
    """Say what PATH is: an artifact's folder, an .onnx file or an engine, and what `run` would use here; or a
    Triton model repository, and whether it fits its artifact.

    Nothing is run. Exit status 1 when a file or an engine is not as it was written.

    \b
    Examples:
      reformer-export inspect OUT
      reformer-export inspect OUT/model.onnx --json
      reformer-export inspect OUT/engines/tensorrt-rtx.engine
      reformer-export inspect OUT --report artifact.html
      reformer-export inspect REPOSITORY
    """
    found = inspect_repository(path) if is_repository(Path(path)) else inspect_path(path)
    if report_file is not None:
        write_report(report_file, _make_page(path, found))
    if not write_json(json_file, found.to_dict()):
        for table in _make_tables(path, found):
            print_table(table)
    problem = found.problem if isinstance(found, RepositorySummary) else describe_problem(found)
    if problem:
        click.echo(f"Error: {path}: {problem}", err=True)
        ctx.exit(EXIT_CHECK_FAILED)


def _make_page(path: str, found: Inspection | RepositorySummary) -> Page:
    if isinstance(found, RepositorySummary):
        return found.page()
    if isinstance(found, EngineState):
        raise InputError("report_file", f"the engine {path}", "an artifact's folder", "give that")
    return page_from_inspect(found)


def _make_tables(path: str, found: Inspection | RepositorySummary) -> list[Table]:
    return found.tables() if isinstance(found, RepositorySummary) else inspection_tables(path, found)
