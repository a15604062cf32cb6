"""`reformer-export verify --bisect`: which node it is that differs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from reformer_export.artifact.manifest import Manifest
from reformer_export.cli.runtime_options import Command
from reformer_export.errors import InputError
from reformer_export.runtimes.replay import check_subgraph_folder

if TYPE_CHECKING:
    from reformer_export.parity import Case, VerifyResult
    from reformer_export.parity.bisect import BisectResult

MAX_CASES: Final = 3
"""Failing cases that are searched, the smallest first: a defect seldom hides in all of them."""

MAX_TOKENS: Final = 4096
"""Of the case that is searched when none failed: every value of every layer is held in memory."""


@dataclass(frozen=True)
class BisectOutcome:
    """What was found: `names_node` whether a node differs; `lines` for people; `values` for the JSON."""

    names_node: bool
    lines: tuple[str, ...]
    values: dict[str, Any]
    found: BisectResult


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


def run_bisect(
    out: Path,
    artifact: Path,
    manifest: Manifest,
    checkpoint: Path,
    results: Sequence[VerifyResult],
    options: dict[str, Any],
) -> BisectOutcome:
    """Search the failing cases of ONNX Runtime's result, and write the node that is found into `out`.

    `options` are those of the command.
    """
    from reformer_export.parity.bisect import bisect_artifact
    from reformer_export.parity.subgraph_folder import write_subgraph
    from reformer_export.parity.subgraphs import choose_placement
    from reformer_export.parity.sweep import DECODER_BIAS
    from reformer_export.reference.eager import EagerReformer

    click.echo("Comparing node by node ...", err=True)
    (result, *_) = (result for result in results if result.runtime.startswith("onnxruntime"))
    placement = choose_placement(
        artifact, manifest, options["provider"], options["threads"], options["native"]
    )
    has_old_bias = DECODER_BIAS in manifest.source.get("renamed_weights", {})
    eager = EagerReformer(checkpoint, manifest.spec, has_old_bias)
    found = bisect_artifact(
        artifact, manifest, eager, choose_failing_cases(result), placement, options["seed"]
    )
    lines, values = [f"{found.verdict()}."], found.to_dict()
    if write_subgraph(out, found, placement):
        values["replay"] = shlex.join(["reformer-export", "replay", str(out)])
        lines.append(f"Its inputs, eager's result and the file's are in {out}; run it again with:")
        lines.append(f"  {values['replay']}")
    return BisectOutcome(found.named is not None, tuple(lines), values, found)


def choose_failing_cases(result: VerifyResult) -> list[Case]:
    """Failing cases, the smallest first; where none failed, the largest that is small enough."""
    by_size = sorted(result.cases, key=lambda found: found.case.batch * found.case.length)
    failed = [found.case for found in by_size if not found.passed]
    if failed:
        return failed[:MAX_CASES]
    small = [found.case for found in by_size if found.case.batch * found.case.length <= MAX_TOKENS]
    return [small[-1] if small else by_size[0].case]
