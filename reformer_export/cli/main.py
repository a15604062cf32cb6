"""Entry point `reformer-export`: finds the command, turns errors into one line and an exit status.

Exit status: 0 done; 1 a check did not hold; 2 the user's input is at fault; 130 interrupted; 141 nobody reads
standard output any more.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from typing import Final

import click

from reformer_export import __version__
from reformer_export.cli.interrupts import EXIT_INTERRUPTED, INTERRUPTED, leaving_at_interrupt
from reformer_export.cli.standard_streams import guard_standard_streams
from reformer_export.cli.verbosity import make_debug_option, make_verbose_option
from reformer_export.errors import ReformerExportError

PROGRAM: Final = "reformer-export"
COMMANDS: Final = (
    "onnx",
    "verify",
    "replay",
    "engine",
    "run",
    "generate",
    "serve",
    "bench",
    "inspect",
    "triton",
    "build-library",
    "doctor",
)


class LazyGroup(click.Group):
    """A group whose commands' modules are imported only when needed (torch takes seconds to import)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with leaving_at_interrupt():
            module = importlib.import_module(f"reformer_export.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; of an unknown command the error names one that is spelt alike."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            for near in difflib.get_close_matches(args[0], COMMANDS, 1):
                raise click.UsageError(f"{error.message} Did you mean '{near}'?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every command with the first sentence of its help, whole: click would cut it."""
        commands = [(name, self.get_command(ctx, name)) for name in COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(each)) for name, each in commands if each])


def _first_sentence(command: click.Command) -> str:
    paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".") + "."


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Take a trained PyTorch Reformer (LSH attention) to production: export, verify, build, run, measure.

    \b
    First steps:
      reformer-export doctor
      reformer-export onnx CHECKPOINT OUT
      reformer-export run OUT "some text"

    `reformer-export COMMAND --help` has a command's options and examples.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.params += [make_verbose_option(), make_debug_option()]


def main() -> None:
    """Run the command line and leave the process with the documented exit status."""
    debug = "--debug" in sys.argv[1:]
    try:
        with guard_standard_streams():
            _leave_with_status(debug)
    except ReformerExportError as error:  # of standard output itself, which nothing else could tell
        if debug:
            raise
        _leave(f"Error: {error}", error.exit_status)


def _leave_with_status(debug: bool) -> None:
    try:
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except ReformerExportError as error:
        if debug:
            raise
        _leave(f"Error: {' '.join(str(error).split())}", error.exit_status)
    except click.ClickException as error:
        _leave(_describe_usage_error(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _leave(INTERRUPTED, EXIT_INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _describe_usage_error(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    return f"Error: {' '.join(error.format_message().split())} See `{command} --help`."


def _leave(line: str, status: int) -> None:
    click.echo(line, err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
