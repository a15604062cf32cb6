"""How far a stream of sequences has come: a bar on a terminal, plain lines elsewhere, both with the rate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reformer_export.batch import Source
from reformer_export.cli.tables import progress_lines

Show = Callable[[int, float], None]
"""Shows how many lines are done, and up to where in the source's unit."""


@contextmanager
def show_stream_progress(source: Source, *, has_bar: bool) -> Iterator[Show]:
    """Show on standard error how many lines are done, for a source that has been read up to its beginning.

    A single line shows nothing. `has_bar` is false where results appear on the same terminal.
    """
    is_single = source.counts_lines and source.progress[1] == 1
    if not is_single and not sys.stderr.isatty():
        yield _make_lines(source)
    elif is_single or not has_bar:
        yield lambda done, position: None
    else:
        with _make_bar(source) as show:
            yield show


def _make_lines(source: Source) -> Show:
    begun = time.monotonic()
    before, end = source.progress
    show = progress_lines()

    def describe(done: int, position: float) -> str:
        seconds = max(time.monotonic() - begun, 1e-9)
        text = f"{done}, {done / seconds:.4g}/s"
        if end is not None and position > before:
            left = _format_seconds(max(end - position, 0) * seconds / (position - before))
            part = f"{position:.0f} of {end}" if source.counts_lines else f"{done} ({position / end:.1%})"
            text = f"{part}, {done / seconds:.4g}/s, {left} left"
        return f"Sequences: {text}"

    return lambda done, position: show(lambda: describe(done, position))


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _make_bar(source: Source) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    begun = time.monotonic()
    before, end = source.progress
    counts = TextColumn("{task.fields[done]} done, {task.fields[rate]}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    # Standard output, where results may go, is left alone.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("Sequences", total=end, completed=before, done="0", rate="0")

        def show(done: int, position: float) -> None:
            rate = f"{done / max(time.monotonic() - begun, 1e-9):.4g}"
            progress.update(task, completed=position, done=str(done), rate=rate)

        yield show
