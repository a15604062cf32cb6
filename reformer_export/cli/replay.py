"""`reformer-export replay`: run the node again that `verify --bisect` named."""

from __future__ import annotations

from pathlib import Path

import click

from reformer_export.cli.failures import refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import json_file_option, write_json
from reformer_export.cli.runtime_options import threads_option
from reformer_export.errors import EXIT_CHECK_FAILED
from reformer_export.libraries.operators import NATIVE_MODES, NativeMode
from reformer_export.parity.replay import Replay, judge_run
from reformer_export.runtimes.ort_session import CPU, CUDA
from reformer_export.runtimes.replay import run_node

PROVIDERS = {"cpu": CPU, "cuda": CUDA}


@click.command("replay", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--native",
    type=click.Choice(NATIVE_MODES),
    help="Use the native operator library.  [default: as it was found]",
)
@click.option(
    "--provider", type=click.Choice(list(PROVIDERS)), help="Where to run.  [default: as it was found]"
)
@threads_option
@json_file_option
@click.pass_context
def command(
    ctx: click.Context,
    folder: Path,
    native: NativeMode | None,
    provider: str | None,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Run one node again on the inputs on which `verify --bisect DIR` found it wrong.

    DIR has the node as a model of its own (node.onnx) and its inputs, eager's result and the file's
    (node.npz). Neither the artifact nor the checkpoint is needed, and neither torch nor transformers. Exit
    status 1 while the node differs from eager, 0 when it agrees.

    \b
    Examples:
      reformer-export replay DIR
      reformer-export replay DIR --native off
    """
    with refuse_in_one_line("replaying"):
        run = run_node(folder, native, None if provider is None else PROVIDERS[provider], threads)
        replay = judge_run(run)
    if not write_json(json_file, replay.to_dict()):
        click.echo(_describe(replay))
    if not replay.agrees:
        ctx.exit(EXIT_CHECK_FAILED)


def _describe(replay: Replay) -> str:
    record = replay.record
    layer = "" if record.layer is None else f"layer {record.layer}, "
    unit = "unexplained flips" if record.buckets else "error"
    return (
        f"{record.node} ({record.operator}), {layer}{record.module}: {unit} {replay.now:.3g} now, "
        f"{record.error:.3g} when it was found, tolerance {record.tolerance:.3g}; "
        f"{'agrees' if replay.agrees else 'DIFFERS'}"
    )
