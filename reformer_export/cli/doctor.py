"""`reformer-export doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from reformer_export.cli.tables import print_table
from reformer_export.errors import EXIT_CHECK_FAILED
from reformer_export.runtimes.machine import MachineReport, inspect_machine

NO_COLUMNS = ("", "")


@click.command("doctor")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, path: Path | None, as_json: bool) -> None:
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
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(report), "can_run": report.can_run}, indent=2))
    else:
        _print_report(report)
    if not report.can_run:
        ctx.exit(EXIT_CHECK_FAILED)


def _print_report(report: MachineReport) -> None:
    rows = [("Python", report.python), ("platform", report.platform)]
    rows += [("GPU", gpu) for gpu in report.gpus] or [("GPU", "no NVIDIA GPU found")]
    rows.append(("ONNX Runtime", ", ".join(report.providers) or "missing: no artifact can be run"))
    rows.append(("native kernels", report.native))
    print_table("Machine", NO_COLUMNS, rows)
    engines: list[tuple[str, str]] = list(report.tensorrt.runtimes)
    engines.append(("plugin library", report.tensorrt.plugin_library))
    engines.append(("GPU", report.tensorrt.gpu))
    engines.append(("engines run here with", ", ".join(report.tensorrt.can_run) or "none"))
    print_table("TensorRT", NO_COLUMNS, engines)
    libraries = [
        (library.name, library.version or f"missing: {library.install}", library.purpose)
        for library in report.libraries
    ]
    print_table("Libraries", ("package", "version", "for"), libraries)
    commands = [
        (command.name, f"needs {', '.join(command.missing)}" if command.missing else "ready")
        for command in report.commands
    ]
    print_table("Commands", NO_COLUMNS, commands)
    if report.artifact is not None:
        problem = report.artifact.problem
        verdict = [("can run here", "yes")] if problem is None else [("can run here", "no"), ("why", problem)]
        notes = [("note", note) for note in report.artifact.notes]
        print_table(f"Artifact {report.artifact.path}", NO_COLUMNS, verdict + notes)
