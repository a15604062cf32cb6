"""Entry point `reformer-export`: finds the command, turns errors into one line and an exit status.

Exit status: 0 done; 1 a check did not hold; 2 the user's input is at fault; 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from reformer_export import __version__
from reformer_export.errors import ReformerExportError

EXIT_INTERRUPTED: Final = 130
COMMANDS: Final = (
    "onnx",
    "verify",
    "replay",
    "engine",
    "run",
    "generate",
    "bench",
    "inspect",
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
        module = importlib.import_module(f"reformer_export.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reformer-export")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Take a trained PyTorch Reformer (LSH attention) to production.

    \b
    reformer-export onnx CHECKPOINT OUT        checkpoint -> verified model.onnx
    reformer-export verify OUT                 compare with eager again, in depth
    reformer-export replay DIR                 run the node again that verify --bisect named
    reformer-export engine OUT --runtime ...   model.onnx -> TensorRT engine
    reformer-export run OUT "some text"        one forward pass
    reformer-export generate OUT --prompt ...  continue a text
    reformer-export bench OUT                  time and memory, against eager and full attention
    reformer-export build-library              native libraries for this machine
    """


def main() -> None:
    """Run the command line and leave the process with the documented exit status."""
    debug = "--debug" in sys.argv[1:]
    try:
        status = cli.main(standalone_mode=False)
    except ReformerExportError as error:
        if debug:
            raise
        _leave(f"Error: {' '.join(str(error).split())}", error.exit_status)
    except click.ClickException as error:
        _leave(_describe_usage_error(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _leave("Interrupted: nothing half-written was left behind.", EXIT_INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _describe_usage_error(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "reformer-export"
    return f"Error: {' '.join(error.format_message().split())} See `{command} --help`."


def _leave(line: str, status: int) -> None:
    click.echo(line, err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
