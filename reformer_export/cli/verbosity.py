"""--debug and --verbose, of the program and of each of its commands."""

from __future__ import annotations

import logging
from typing import Final

import click

from reformer_export.phases import LOGGER

_DEBUG_KEY: Final = "reformer_export.debug"
_VERBOSE_KEY: Final = "reformer_export.verbose"


class _StandardErrorHandler(logging.Handler):
    """Shows a record as a line on standard error, as the command's other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def make_debug_option() -> click.Option:
    """--debug; `is_debug` tells whether it was given, before the command's name or after it."""

    def note(ctx: click.Context, _param: click.Parameter, is_given: bool) -> None:
        ctx.meta[_DEBUG_KEY] = is_debug(ctx) or is_given

    text = "Show the traceback of an error."
    return click.Option(["--debug"], is_flag=True, expose_value=False, callback=note, help=text)


def make_verbose_option() -> click.Option:
    """-v, --verbose, before the command's name or after it."""

    def show(ctx: click.Context, _param: click.Parameter, is_given: bool) -> None:
        if is_given and not ctx.meta.get(_VERBOSE_KEY):
            ctx.meta[_VERBOSE_KEY] = True
            _show_log(ctx)

    text = "Show which libraries and options are used, and how long each phase takes."
    return click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=show, help=text)


def is_debug(ctx: click.Context) -> bool:
    """Whether --debug was given, before the command's name or after it."""
    return bool(ctx.meta.get(_DEBUG_KEY))


def _show_log(ctx: click.Context) -> None:
    """Show what this package logs, until the command ends."""
    handler, before = _StandardErrorHandler(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)

    def stop() -> None:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)

    ctx.call_on_close(stop)
