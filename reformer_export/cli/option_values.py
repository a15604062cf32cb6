"""Options that several commands share or click's own types do not read: numbers, buckets, output files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from reformer_export.artifact.files import json_text, output_error, write_atomically
from reformer_export.errors import InputError, OutputError
from reformer_export.libraries.packages import REPORTING, require_packages

STANDARD_OUTPUT: Final = Path("-")

_LITERALLY: Final = {
    "--file": 'For the name itself, put {"text": ...} into a .jsonl file',
    "--prompt-file": "For the name itself, give it to --prompt",
}


def integers_from_option(
    _ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Whole numbers with commas between them: 1,64,1024."""
    return _integers(text, ",", param.opts[0], "whole numbers with commas; write e.g. 1,64,1024")


def names_from_option(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Names with commas between them; none of an empty text."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def num_buckets_from_option(
    _ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """The factors of a bucket count: (64,) for 64, (8, 16) for 8x16."""
    return _integers(text, "x", param.opts[0], "a number or its factors; write e.g. 64 or 8x16")


def shapes_from_option(
    _ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[int, ...], ...]:
    """Shapes (batch, tokens) of inputs, or others with an x between sizes: (2, 1024) for 2x1024."""
    expected = "batch x length; write e.g. 1x1024"
    shapes = []
    for text in texts:
        numbers = _integers(text, "x", param.opts[0], expected)
        if numbers is None or min(numbers) < 1:
            raise InputError(param.opts[0], repr(text), expected)
        shapes.append(numbers)
    return tuple(shapes)


def _integers(text: str | None, separator: str, what: str, expected: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.lower().split(separator))
    except ValueError as error:
        raise InputError(what, repr(text), expected) from error


def output_path_from_option(_ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A file to write, or - for standard output; refused before any work when it cannot be written."""
    if path is None or path == STANDARD_OUTPUT:
        return path
    try:
        got = "a folder" if path.is_dir() else None if path.parent.is_dir() else "whose folder does not exist"
    except OSError as error:
        raise output_error(path, error) from error
    if got is not None:
        raise OutputError(param.opts[0], f"{path}, {got}", "a file to write", "choose another")
    return path


def refuse_file_name(text: str, option: str) -> None:
    """InputError for a text that is the name of a file here, or -, which was meant to be read by `option`."""
    named = "the name of a file here"
    try:
        if text == "-":
            named, option = "the name of standard input", "--file"
        elif not Path(text).is_file():
            return
    except (OSError, ValueError):
        return
    got = f"{text!r:.120}, {named}"
    raise InputError("TEXT", got, "a text", f"was {option} {text:.120} meant? {_LITERALLY[option]}")


def report_path_from_option(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A page to write, refused before any work also where the packages are missing that make it."""
    if path is not None:
        require_packages(param.opts[0], REPORTING)
    return output_path_from_option(ctx, param, path)


def json_path_from_option(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A .json file to write, or - for standard output.

    A value may be left out, as all of it could once: what stands behind it is then taken for a name. Texts
    and models have other names, so that none is lost or written over.
    """
    output_path_from_option(ctx, param, path)
    if path is None or path == STANDARD_OUTPUT or path.suffix.lower() == ".json":
        return path
    if path.exists() and not path.is_file():  # a device or a pipe
        return path
    expected = "a name ending in .json, or - for standard output"
    raise InputError(param.opts[0], f"{str(path)!r:.120}", expected, "write `--json FILE.json` or `--json -`")


json_file_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=str(STANDARD_OUTPUT),
    type=click.Path(path_type=Path),
    callback=json_path_from_option,
    help="Also write the results to FILE, as JSON; - prints them in place of anything else.",
)
"""--json FILE, the argument `json_file`; --json alone is --json -."""


def write_json(json_file: Path | None, values: Any) -> bool:
    """Write `values` where the user wants them, the file whole or not at all; whether that is standard
    output, on which nothing else shall stand then."""
    if json_file == STANDARD_OUTPUT:
        click.echo(json_text(values))
        return True
    if json_file is not None:
        write_atomically(json_file, json_text(values) + "\n")
    return False


report_option = click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    callback=report_path_from_option,
    help="Write a page with pictures, for people; it opens without a network.",
)
"""--report FILE.html, the argument `report_file`."""
