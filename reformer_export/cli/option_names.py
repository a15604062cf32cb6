"""The library names an option by its field; the command line by its flag."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from reformer_export.cli.failures import refuse_in_one_line
from reformer_export.cli.verbosity import make_debug_option, make_verbose_option
from reformer_export.errors import ReformerExportError
from reformer_export.phases import log_phase

_EXAMPLES: Final = "\b\nExamples:"
"""What stands before a command's examples; the backspace keeps click from filling the lines."""

_METAVARS: Final = {
    "integer": "N",
    "integer range": "N",
    "float": "X",
    "float range": "X",
    "path": "FILE",
    "text": "TEXT",
}
"""What stands for a value in the help, by click's name of its type."""

_FIELD: Final = re.compile(r'`(\w+)(?:=(?:(True|False)|"([^"]*)"))?`')
"""`threads`, `overwrite=True`, `provider="cpu"` in the words of an error."""


class Command(click.Command):
    """A command whose errors speak of its own options, and which takes --debug and --verbose as the program
    does.

    `sections`: the names of options by the heading under which the help shows them; those of no section come
    last. The help shows what stands for a value, and its default, of every option alike. Examples, at the end
    of the command's documentation, are at the end of the help.
    """

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Sequence[str]] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.context_settings["show_default"] = True
        self.sections = sections or {}
        self.params += [make_verbose_option(), make_debug_option()]
        for option in self.params:
            if isinstance(option, click.Option) and option.metavar is None and not option.is_flag:
                option.metavar = _METAVARS.get(option.type.name)
        text, mark, examples = inspect.cleandoc(self.help or "").partition(_EXAMPLES)
        self.help, self.epilog = text, mark + examples

    def invoke(self, ctx: click.Context) -> object:
        try:
            with (
                refuse_in_one_line(f"reformer-export {self.name}"),
                log_phase(f"reformer-export {self.name}"),
            ):
                return super().invoke(ctx)
        except ReformerExportError as error:
            name_options(error, ctx)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, under the headings of `sections`."""
        shown = {
            param.name: param.get_help_record(ctx)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
        }
        placed = [name for names in self.sections.values() for name in names]
        rest = [name for name in shown if name not in placed]
        for heading, names in {**self.sections, "Other options" if placed else "Options": rest}.items():
            records = [record for name in names if (record := shown.get(name)) is not None]
            with formatter.section(heading):
                formatter.write_dl(records)


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
