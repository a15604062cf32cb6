"""The library names an option by its field; the command line by its flag."""

from __future__ import annotations

import re
from typing import Final

import click

from reformer_export.errors import ReformerExportError

_FIELD: Final = re.compile(r'`(\w+)(?:=(?:(True|False)|"([^"]*)"))?`')
"""`threads`, `overwrite=True`, `provider="cpu"` in the words of an error."""


def name_options(error: ReformerExportError, command: click.Command) -> None:
    """Let `error` speak of the options of `command`: --threads, --overwrite, --provider cpu."""
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}

    def flag(found: re.Match[str]) -> str:
        name, is_on, value = found.groups()
        if name not in options:
            return found.group()
        option = options[name]
        if is_on == "False":
            return (option.secondary_opts or option.opts)[0]
        return f"{option.opts[0]} {value}" if value else option.opts[0]

    if error.what in options:
        error.what = options[error.what].opts[0]
    for part in ("what", "got", "expected", "fix"):
        setattr(error, part, _FIELD.sub(flag, getattr(error, part)))
