"""The library names an option by its field; the command line by its flag."""

from __future__ import annotations

import re
from typing import Any, Final

import click
from click.core import ParameterSource

from reformer_export.cli.failures import refuse_in_one_line
from reformer_export.errors import ReformerExportError

_DEBUG_KEY: Final = "reformer_export.debug"
_FIELD: Final = re.compile(r'`(\w+)(?:=(?:(True|False)|"([^"]*)"))?`')
"""`threads`, `overwrite=True`, `provider="cpu"` in the words of an error."""


class Command(click.Command):
    """A command whose errors speak of its own options, and which takes --debug as the program does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(make_debug_option())

    def invoke(self, ctx: click.Context) -> object:
        try:
            with refuse_in_one_line(f"reformer-export {self.name}"):
                return super().invoke(ctx)
        except ReformerExportError as error:
            name_options(error, ctx)
            raise


def make_debug_option() -> click.Option:
    """--debug, of the program and of each of its commands; `is_debug` tells whether either was given."""

    def note(ctx: click.Context, _param: click.Parameter, is_given: bool) -> None:
        ctx.meta[_DEBUG_KEY] = is_debug(ctx) or is_given

    text = "Show the traceback of an error."
    return click.Option(["--debug"], is_flag=True, expose_value=False, callback=note, help=text)


def is_debug(ctx: click.Context) -> bool:
    """Whether --debug was given, before the command's name or after it."""
    return bool(ctx.meta.get(_DEBUG_KEY))


def name_options(error: ReformerExportError, ctx: click.Context) -> None:
    """Let `error` say --threads, --overwrite, --provider cpu for fields of the command's options.

    What is at fault is an option only where one was given: else it is the checkpoint's own field. Words may
    advise another export: options that the command lacks are those of `onnx`.
    """
    root = ctx.find_root()
    onnx = root.command.get_command(root, "onnx") if isinstance(root.command, click.Group) else None
    commands = (ctx.command,) if onnx is None else (onnx, ctx.command)
    options = _list_options(*commands)
    if error.what in options and ctx.get_parameter_source(error.what) is ParameterSource.COMMANDLINE:
        error.what = options[error.what].opts[0]
    for part in ("what", "got", "expected", "fix"):
        setattr(error, part, name_fields(getattr(error, part), *commands))


def name_fields(text: str, *commands: click.Command) -> str:
    """`text` with the flags of the commands' options in place of their fields."""
    options = _list_options(*commands)

    def flag(found: re.Match[str]) -> str:
        name, is_on, value = found.groups()
        if name not in options:
            return found.group()
        option = options[name]
        if is_on == "False":
            return (option.secondary_opts or option.opts)[0]
        return f"{option.opts[0]} {value}" if value else option.opts[0]

    return _FIELD.sub(flag, text)


def name_own_options(text: str) -> str:
    """`text` with the flags of the command that runs."""
    return name_fields(text, click.get_current_context().command)


def _list_options(*commands: click.Command) -> dict[str | None, click.Option]:
    """By name; the last command's win."""
    params = (param for command in commands for param in command.params)
    return {param.name: param for param in params if isinstance(param, click.Option)}
