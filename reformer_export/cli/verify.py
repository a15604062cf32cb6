"""`reformer-export verify`: an artifact against unpatched eager transformers, in depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact import read_manifest, sha256_of_file, write_atomically
from reformer_export.cli.onnx import checkpoint_folder
from reformer_export.cli.tables import print_table, show_progress
from reformer_export.errors import EXIT_CHECK_FAILED, InputError


class Integers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"got {value!r}, expected whole numbers such as 1,64,1024", param, ctx)


@click.command("verify")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--checkpoint", help="Folder or hub id; the one that was exported, by default.")
@click.option("--runtime", "runtimes", multiple=True, default=["onnxruntime"], show_default=True)
@click.option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--lengths", type=Integers(), help="Sequence lengths, in tokens.")
@click.option("--batch-sizes", type=Integers(), help="Batch sizes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the results to a file; - prints."
)
def command(
    out: Path,
    checkpoint: str | None,
    runtimes: tuple[str, ...],
    provider: str,
    lengths: tuple[int, ...] | None,
    batch_sizes: tuple[int, ...] | None,
    seed: int,
    threads: int | None,
    json_file: Path | None,
) -> int:
    """Compare the artifact OUT with eager over lengths, batches and masks.

    For each case: the largest output difference when the graph is given eager's hash buckets (pinned), how
    many hashes differ (a flip is explained when its two best scores differ by less than the dtype's
    rounding), and the largest output difference when the graph hashes by itself (free). It passes when every
    pinned difference is within the tolerance and every flip is explained; exit status 1 otherwise.

    \b
    Examples:
      reformer-export verify OUT
      reformer-export verify OUT --lengths 1,64,1000 --batch-sizes 1,3
      reformer-export verify OUT --checkpoint ./my-reformer --json parity.json
    """
    for runtime in runtimes:
        if runtime != "onnxruntime":
            raise InputError(f"runtime: got {runtime!r}, expected onnxruntime; choose it with --runtime")
    manifest = read_manifest(out)
    folder = checkpoint_folder(out, manifest, checkpoint)
    from reformer_export.parity import choose_cases, silence_transformers, verify_artifact

    silence_transformers()
    cases = choose_cases(manifest.spec, lengths, batch_sizes)
    with show_progress("Compared cases", len(cases)) as advance:
        result = verify_artifact(
            out, folder, cases, provider=provider, threads=threads, seed=seed, on_result=lambda _: advance(1)
        )
    text = json.dumps(
        {"artifact": str(out), "model_sha256": sha256_of_file(out / "model.onnx"), **result.to_dict()},
        indent=2,
    )
    if json_file is not None and str(json_file) != "-":
        write_atomically(json_file, text + "\n")
    if json_file is not None and str(json_file) == "-":
        click.echo(text)
    else:
        print_table(
            f"{out} against eager ({result.runtime}, {result.dtype})",
            _COLUMNS,
            [_row(r) for r in result.cases],
        )
        click.echo(f"\n{result.verdict()}")
    return 0 if result.passed else EXIT_CHECK_FAILED


_COLUMNS = (
    "case",
    "pinned error",
    "tolerance",
    "hashes",
    "flips",
    "unexplained",
    "worst margin",
    "free error",
    "",
)


def _row(result: Any) -> list[str]:
    margin = max((layer.worst_margin for layer in result.layers), default=0.0)
    return [
        str(result.case),
        f"{result.pinned_error:.1e}",
        f"{result.tolerance:.1e}",
        str(result.hashed),
        str(result.flips),
        str(result.unexplained),
        f"{margin:.1e}" if result.flips else "-",
        f"{result.free_error:.1e}",
        "ok" if result.passed else "FAILED",
    ]
