"""What happens to lines that the model does not take: the end of the run, or a message and the next line."""

from __future__ import annotations

from collections import Counter
from typing import Final

import click

from reformer_export.batch import InputLine, OnError, end_at_bad_line

SHOWN_LINES: Final = 20
"""Messages of a kind on standard error; the others are counted."""


class LineMessages:
    """Messages about lines, of which only the first few are shown."""

    def __init__(self, on_error: OnError) -> None:
        self._stops = on_error == "stop"
        self._counts: Counter[str] = Counter()

    def show(self, line: InputLine) -> None:
        """Say what is wrong with `line`, if anything is; InputError if that shall end the run."""
        if self._stops:
            end_at_bad_line(line)
        for kind, message in (("Skipped", line.error), ("Warning", line.warning)):
            if message is None:
                continue
            self._counts[kind] += 1
            if self._counts[kind] <= SHOWN_LINES:
                click.echo(f"{kind}: {line.where}: {' '.join(message.split())}", err=True)

    def show_counts(self) -> None:
        """Say of how many lines nothing was shown."""
        for kind, count in sorted(self._counts.items()):
            if count > SHOWN_LINES:
                click.echo(f"{kind}: {count - SHOWN_LINES} more lines.", err=True)
