"""Tables and progress: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from reformer_export.cli.option_names import name_own_options
from reformer_export.report.tables import Table

PLAIN_PROGRESS_SECONDS: Final = 5.0
COLUMN_GAP: Final = "  "


def echo_on_stderr(line: str) -> None:
    """Print a line of the library's beside the results, in the words of the command that runs."""
    click.echo(name_own_options(line), err=True)


def print_table(table: Table) -> None:
    """Print a table on standard output: boxed on a terminal, else aligned and never cut."""
    if sys.stdout.isatty():
        _print_rich_table(table)
        return
    click.echo(f"\n{table.caption}")
    lines = [table.columns, *table.rows] if any(table.columns) else table.rows
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(COLUMN_GAP + COLUMN_GAP.join(padded).rstrip())


def _print_rich_table(table: Table) -> None:
    from rich import console, text
    from rich import table as rich_table

    shown = rich_table.Table(show_header=any(table.columns))
    for column in table.columns:
        shown.add_column(text.Text(column), overflow="fold")
    for line in table.rows:
        shown.add_row(*map(text.Text, line))  # Text: a cell such as "[batch, 4]" is no markup
    screen = console.Console()
    screen.print(text.Text(table.caption, style="bold"))
    screen.print(shown)


@contextmanager
def show_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` things are done, on standard error; the block calls the given function
    with the number done since the last call. One thing alone shows nothing."""
    if total == 1:
        yield lambda count: None
        return
    if not sys.stderr.isatty():
        yield _plain_progress(what, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _plain_progress(what: str, total: int) -> Callable[[int], None]:
    done = 0
    show = progress_lines()

    def advance(count: int) -> None:
        nonlocal done
        done += count
        show(lambda: f"{what}: {done} of {total}")

    return advance


def progress_lines() -> Callable[[Callable[[], str]], None]:
    """What stands for a bar where there is no terminal: shows on standard error the line that the given
    function makes, one every few seconds at most."""
    last = time.monotonic()

    def show(make_line: Callable[[], str]) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_PROGRESS_SECONDS:
            last = time.monotonic()
            click.echo(make_line(), err=True)

    return show
