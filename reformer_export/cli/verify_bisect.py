"""`reformer-export verify --bisect`: which node it is that differs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reformer_export.cli.runtime_options import Command
from reformer_export.errors import InputError
from reformer_export.runtimes.replay import check_subgraph_folder

if TYPE_CHECKING:
    from reformer_export.parity.bisect import BisectResult
    from reformer_export.parity.results import VerifyResult
    from reformer_export.parity.session import ParitySession


def bisect_option(command: Command) -> Command:
    """Add --bisect."""
    return click.option(
        "--bisect",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Also name the first node that differs from eager, and write it with its inputs into DIR, a new "
        "folder, for `reformer-export replay DIR`.",
    )(command)


def check_bisect(out: Path | None, runtimes: Sequence[str]) -> None:
    """Refuse, before any work, a DIR that holds something else, or runtimes whose nodes cannot be run alone.

    Raises:
        InputError: none of the runtimes is ONNX Runtime.
        OutputError: DIR is something else.
    """
    if out is None:
        return
    if "onnxruntime" not in runtimes:
        raise InputError(
            f"--bisect: got --runtime {runtimes[0]}, whose nodes cannot be run one by one, expected "
            "onnxruntime; add --runtime onnxruntime"
        )
    check_subgraph_folder(out)


def run_bisect(out: Path, session: ParitySession, result: VerifyResult) -> tuple[BisectResult, str | None]:
    """Search the failing cases of ONNX Runtime's result, and write the node that is found into `out`.

    Also gives the command that replays it, None where no node differs.
    """
    from reformer_export.parity.bisect import bisect, choose_failing_cases
    from reformer_export.parity.subgraph_folder import write_subgraph

    click.echo("Comparing node by node ...", err=True)
    found = bisect(session, choose_failing_cases(result))
    written = write_subgraph(out, found, session.placement)
    return found, shlex.join(["reformer-export", "replay", str(out)]) if written else None


def print_bisect(out: Path, found: BisectResult, replay: str | None) -> None:
    """Print what `run_bisect` found."""
    click.echo(f"\n{found.verdict()}.")
    if replay is not None:
        click.echo(f"Its inputs, eager's result and the file's are in {out}; run it again with:\n  {replay}")
