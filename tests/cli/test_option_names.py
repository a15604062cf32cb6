from __future__ import annotations

import click
import pytest

from reformer_export.cli.option_names import Command, name_options
from reformer_export.errors import InputError
from tests.cli.program import run_program


@click.command(cls=Command)
@click.argument("out")
@click.option("--num-hashes", type=int)
@click.option("--chunk-feed-forward", "feed_forward_slices", type=int)
@click.option("--verify/--no-verify", default=True)
@click.option("--overwrite", is_flag=True)
@click.option("--provider")
def command(**_options: object) -> None:
    """A command."""


@pytest.mark.parametrize(
    ("what", "fix", "line"),
    [
        ("num_hashes", "choose another", "--num-hashes: got 0, expected 1; choose another"),
        ("feed_forward_slices", "", "--chunk-feed-forward: got 0, expected 1"),
        ("out", "use `overwrite=True`", "out: got 0, expected 1; use --overwrite"),
        ("num_hashes, row 1", "try `verify=False`", "num_hashes, row 1: got 0, expected 1; try --no-verify"),
        ("model", 'use `provider="cpu"`', "model: got 0, expected 1; use --provider cpu"),
        ("model", "see `reformer-export doctor`", "model: got 0, expected 1; see `reformer-export doctor`"),
        ("model", "lower `threads`", "model: got 0, expected 1; lower `threads`"),
    ],
)
def test_fields_become_flags(what: str, fix: str, line: str) -> None:
    error = InputError(what, 0, 1, fix)
    name_options(
        error, command.make_context("command", ["--num-hashes", "0", "--chunk-feed-forward", "0", "OUT"])
    )
    assert str(error) == line


def test_a_field_that_was_not_given_is_not_the_option_s_fault() -> None:
    error = InputError("num_hashes", 0, 1, "give `num_hashes`")
    name_options(error, command.make_context("command", ["OUT"]))
    assert str(error) == "num_hashes: got 0, expected 1; give --num-hashes"


def test_the_command_line_names_its_own_options() -> None:
    got = run_program("run", "nowhere", "--ids", "5", "--engine", "x").error
    assert got.startswith("Error: --engine: got one that onnxruntime does not take")
