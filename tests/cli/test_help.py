"""The options of all commands are one language, and the help is easy to find one's way in."""

from __future__ import annotations

import re
from collections import defaultdict

import click
import pytest

from reformer_export.cli.main import COMMANDS, cli
from reformer_export.cli.option_names import Command
from tests.cli.program import run_program

MANY = 12
"""Options that nobody finds in without headings."""

OWN_MEANING = {
    "--num-hashes": "a model's, a run's, an engine's, or those that are compared",
    "--batch-sizes": "defaults differ",
    "--lengths": "defaults differ",
    "--data": "what is measured on it",
    "--batch-size": "defaults differ",
    "--runtime": "one, several, or the one to build for",
    "--native": "replay has what was found for its default",
    "--provider": "replay has what was found for its default",
    "--overwrite": "of an artifact, an engine, libraries",
    "--seed": "of draws or of inputs",
    "--tf32": "of an engine, or of CUDA's products",
    "--top-k": "to draw among, or to write",
    "--decode": "adds decode.onnx, or builds an engine of it",
    "--name": "an engine's, or a served model's",
}
"""Why an option's help differs between commands; its kind of value does not, but for the first."""


def command_of(name: str) -> Command:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Command)
    return command


def options_of(name: str) -> list[click.Option]:
    return [param for param in command_of(name).params if isinstance(param, click.Option)]


def by_flag() -> dict[str, list[click.Option]]:
    options = defaultdict(list)
    for name in COMMANDS:
        for option in options_of(name):
            options[option.opts[0]].append(option)
    return options


@pytest.mark.parametrize("name", COMMANDS)
def test_headings_name_options_that_there_are_and_every_one_of_them(name: str) -> None:
    names = {option.name for option in options_of(name)} - {"debug", "verbose"}
    listed = [each for section in command_of(name).sections.values() for each in section]
    if len(names) < MANY and not listed:
        return
    assert len(listed) == len(set(listed))
    assert names - set(listed) == set()
    assert set(listed) - names <= {"num_hashes", "no_check"}, "shared headings may have more"
    shown = run_program(name, "--help").stdout
    headings = [heading for heading in command_of(name).sections if f"\n{heading}:\n" in shown]
    assert headings == list(command_of(name).sections)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_end_the_help(name: str) -> None:
    help_text = run_program(name, "--help").stdout
    before, examples = help_text.split("Examples:\n")
    assert "-h, --help" in before
    assert all(line.startswith("    ") for line in examples.splitlines())
    assert examples.count("reformer-export") >= 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_words_and_values_have_short_names(name: str) -> None:
    for option in options_of(name):
        assert option.help, option.name
        assert option.help.endswith((".", "]")), option.help
        metavar = option.make_metavar(click.Context(command_of(name)))
        assert "INTEGER" not in metavar
        assert "FLOAT" not in metavar
        assert "PATH" not in metavar


def test_an_option_means_the_same_everywhere() -> None:
    for flag, options in by_flag().items():
        kinds = {(option.type.name, option.metavar, option.is_flag, option.name) for option in options}
        words = {(option.help, str(option.default)) for option in options}
        if flag in ("--num-hashes", "--runtime"):
            continue
        assert len(kinds) == 1, (flag, kinds)
        assert len(words) == 1 or flag in OWN_MEANING, (flag, words)


def test_a_default_is_written_in_one_way() -> None:
    for options in by_flag().values():
        for option in options:
            assert not re.search(r"default:(?![^\[]*\])|by default", option.help or ""), option.help


def test_the_provider_s_default_is_one() -> None:
    defaults = {option.default for option in by_flag()["--provider"]}
    assert len(defaults - {"auto"}) == 1  # replay's, which is what was found
    assert next(o for o in options_of("verify") if o.name == "provider").default == "auto"
