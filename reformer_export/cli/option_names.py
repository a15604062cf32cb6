"""The library names an option by its field; the command line by its flag."""

from __future__ import annotations

import re
from typing import Final

import click
from click.core import ParameterSource

from reformer_export.errors import ReformerExportError

_FIELD: Final = re.compile(r'`(\w+)(?:=(?:(True|False)|"([^"]*)"))?`')
"""`threads`, `overwrite=True`, `provider="cpu"` in the words of an error."""


class Command(click.Command):
    """A command whose errors speak of its own options."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ReformerExportError as error:
            name_options(error, ctx)
            raise


def name_options(error: ReformerExportError, ctx: click.Context) -> None:
    """Let `error` say --threads, --overwrite, --provider cpu for fields of the command's options.

    What is at fault is an option only where one was given: else it is the checkpoint's own field. Words may
    advise another export: options that the command lacks are those of `onnx`.
    """
    given = ctx.get_parameter_source(error.what) is ParameterSource.COMMANDLINE
    error.what = name_options_in(f"`{error.what}`" if given else error.what, ctx).strip("`")
    for part in ("got", "expected", "fix"):
        setattr(error, part, name_options_in(getattr(error, part), ctx))


def name_options_in(words: str, ctx: click.Context) -> str:
    """`words` with the flags of the options whose fields stand in backquotes."""
    from reformer_export.cli.onnx import command as onnx

    known = (*onnx.params, *ctx.command.params)
    options = {option.name: option for option in known if isinstance(option, click.Option)}

    def flag(found: re.Match[str]) -> str:
        name, is_on, value = found.groups()
        if name not in options:
            return found.group()
        option = options[name]
        if is_on == "False":
            return (option.secondary_opts or option.opts)[0]
        return f"{option.opts[0]} {value}" if value else option.opts[0]

    return _FIELD.sub(flag, words)
