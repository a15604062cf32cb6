"""Options that several commands share or click's own types do not read: numbers, buckets, output files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from reformer_export.artifact.files import output_error
from reformer_export.errors import InputError, OutputError
from reformer_export.libraries.packages import REPORTING, require_packages

STANDARD_OUTPUT: Final = Path("-")


def integers_from_option(
    _ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Whole numbers with commas between them: 1,64,1024."""
    return _integers(text, ",", param.opts[0], "whole numbers with commas; write e.g. 1,64,1024")


def num_buckets_from_option(
    _ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """The factors of a bucket count: (64,) for 64, (8, 16) for 8x16."""
    return _integers(text, "x", param.opts[0], "a number or its factors; write e.g. 64 or 8x16")


def shapes_from_option(
    _ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Shapes (batch, tokens) of inputs: (2, 1024) for 2x1024."""
    expected = "batch x length; write e.g. 1x1024"
    shapes = []
    for text in texts:
        numbers = _integers(text, "x", param.opts[0], expected)
        if numbers is None or len(numbers) != 2 or min(numbers) < 1:
            raise InputError(param.opts[0], repr(text), expected)
        shapes.append((numbers[0], numbers[1]))
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


def report_path_from_option(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A page to write, refused before any work also where the packages are missing that make it."""
    if path is not None:
        require_packages(param.opts[0], REPORTING)
    return output_path_from_option(ctx, param, path)


def json_file_option(command: Callable[..., object]) -> Callable[..., object]:
    """Add --json FILE, the argument `json_file`."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=output_path_from_option,
        help="Write the results to FILE; - prints them in place of the table.",
    )(command)


def report_option(command: Callable[..., object]) -> Callable[..., object]:
    """Add --report FILE.html, the argument `report_file`."""
    return click.option(
        "--report",
        "report_file",
        type=click.Path(path_type=Path),
        metavar="FILE.html",
        callback=report_path_from_option,
        help="Write a page with pictures, for people; it opens without a network.",
    )(command)
