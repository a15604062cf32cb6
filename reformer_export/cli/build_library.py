"""`reformer-export build-library`: the native libraries for this machine, without a clone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import json_file_option, write_json
from reformer_export.cli.tables import echo_on_stderr, print_table, progress_lines
from reformer_export.libraries.build import build_libraries
from reformer_export.libraries.build_options import LibraryOptions, architectures_from_text
from reformer_export.report.tables import library_build_table


@click.command("build-library", cls=Command)
@click.option("--cuda", is_flag=True, help="Add the CUDA kernels to the operator library.")
@click.option("--tensorrt", is_flag=True, help="Build the TensorRT plugins too; brings --cuda.")
@click.option(
    "--architectures",
    default="native",
    metavar="LIST",
    help='GPUs that the kernels are for: native (those here), all, or numbers such as "80;90" (8.0 and 9.0).',
)
@click.option("--overwrite", is_flag=True, help="Build again what is built already.")
@json_file_option
def command(cuda: bool, tensorrt: bool, architectures: str, overwrite: bool, json_file: Path | None) -> None:
    """Build the native libraries on this machine; every command uses them from then on.

    Needs a C++ compiler. What else is missing is fetched with pip into a temporary folder, each thing named
    before: CMake and Ninja, CUDA's compiler, TensorRT's headers. The libraries go to the user's cache
    ($XDG_CACHE_HOME/reformer-export, or ~/.cache/reformer-export): delete the folder to be rid of them.

    \b
    Examples:
      reformer-export build-library
      reformer-export build-library --cuda
      reformer-export build-library --tensorrt --architectures "80;90"
    """
    options = LibraryOptions(cuda, tensorrt, architectures_from_text(architectures))
    with leave_on_termination(), refuse_in_one_line("building the library"), _show_compiling() as advance:
        build = build_libraries(options, overwrite, echo_on_stderr, advance)
    values = {
        **dataclasses.asdict(build.record),
        "folder": str(build.folder),
        "is_new": build.is_new,
        "note": build.note,
    }
    if write_json(json_file, values):
        return
    echo_on_stderr("Built." if build.is_new else "It is built already; --overwrite builds it again.")
    if build.note:
        echo_on_stderr(f"Note: {build.note}")
    print_table(library_build_table(build))


@contextmanager
def _show_compiling() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a plain line every few seconds elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        show = progress_lines()
        yield lambda done, total: show(lambda: f"Compiling: {done} of {total}")
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Compiling", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
