"""What happens to lines that the model does not take: the end of the run, or a message and the next line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import click

from reformer_export.batch.sequences import InputLine
from reformer_export.errors import InputError

OnError = Literal["stop", "skip"]

SHOWN_LINES: Final = 20
"""Messages of a kind on standard error; the others are counted."""


class LineMessages:
    """Messages about lines, of which only the first few are shown."""

    def __init__(self) -> None:
        self._counts = {"Skipped": 0, "Warning": 0}

    def watch(self, lines: Iterable[InputLine], on_error: OnError) -> Iterator[InputLine]:
        """The same lines; InputError for the first bad one if `on_error` says so."""
        for line in lines:
            if line.error is not None and on_error == "stop":
                raise InputError(f"{line.where}: {line.error}")
            if line.error is not None:
                self._show("Skipped", line.where, line.error)
            if line.warning is not None:
                self._show("Warning", line.where, line.warning)
            yield line

    def _show(self, kind: str, where: str, message: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN_LINES:
            click.echo(f"{kind}: {where}: {' '.join(message.split())}", err=True)

    def show_counts(self) -> None:
        """Say of how many lines nothing was shown."""
        for kind, count in self._counts.items():
            if count > SHOWN_LINES:
                click.echo(f"{kind}: {count - SHOWN_LINES} more lines.", err=True)
