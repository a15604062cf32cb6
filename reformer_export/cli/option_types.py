"""What options of the command line hold besides click's own types: lists of numbers, bucket counts."""

from __future__ import annotations

import click


class Integers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them: 1,64,1024."""

    name = "N,N,..."

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"got {value!r}, expected whole numbers with commas; write e.g. 1,64,1024", param, ctx)


class NumBuckets(click.ParamType[tuple[int, ...]]):
    """A bucket count, or its factors: 64 or 8x16."""

    name = "N|AxB"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(factor) for factor in value.lower().split("x"))
        except ValueError:
            self.fail(f"got {value!r}, expected a number or its factors; write e.g. 64 or 8x16", param, ctx)
