"""`reformer-export onnx`: a checkpoint -> a verified artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reformer_export.artifact.files import json_text
from reformer_export.artifact.folder import check_new_folder, new_folder
from reformer_export.artifact.manifest import Manifest, write_manifest
from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_values import num_buckets_from_option
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.spec import DTYPES, TASKS
from reformer_export.workflows.checkpoint_source import source_with_path

if TYPE_CHECKING:
    from reformer_export.checkpoints import Checkpoint
    from reformer_export.parity.results import VerifyResult

Say = Callable[[str], None]


@click.command("onnx")
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["auto", *TASKS]),
    default="auto",
    show_default=True,
    help="What the model is for; auto takes the checkpoint's head.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Type of the weights and of the arithmetic between the attentions' float32 sums.",
)
@click.option("--num-hashes", type=click.IntRange(1), help="Hash rounds; more are slower and attend better.")
@click.option(
    "--max-hashes",
    type=click.IntRange(1),
    metavar="R",
    help="Export R hash rounds, of which every run chooses how many it uses (--num-hashes there).",
)
@click.option(
    "--num-buckets",
    metavar="N|AxB",
    callback=num_buckets_from_option,
    help="Hash buckets, an even number, or their factors: 64 or 8x16.",
)
@click.option("--hash-seed", type=int, help="Seed of the random rotations.")
@click.option("--max-length", type=click.IntRange(1), help="Greatest sequence length, in tokens.")
@click.option(
    "--logits",
    type=click.Choice(["all", "last"]),
    default="all",
    show_default=True,
    help="Logits of all positions, or of the last attended one (for generation).",
)
@click.option(
    "--chunk-feed-forward",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Compute the feed-forward's inner dimension in N slices: less memory at great lengths.",
)
@click.option("--opset", type=int, help="ONNX opset, 18 or later.  [default: 20]")
@click.option("--revision", help="Branch, tag or commit of a hub checkpoint.")
@click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin (weights only) if there is no safetensors."
)
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Compare with eager on a few inputs."
)
@click.option("--overwrite", is_flag=True, help="Replace the artifact OUT, when the new one is whole.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    checkpoint: str,
    out: Path,
    verify: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export CHECKPOINT (a folder saved by transformers, or a hub id) to the new folder OUT.

    OUT gets model.onnx, which any ONNX Runtime runs at any batch size and length, and manifest.json. A short
    comparison with eager comes first; `reformer-export verify` makes a thorough one. Exit status 1: the
    comparison failed, and OUT is as it was before; --no-verify writes it nevertheless.

    \b
    Examples:
      reformer-export onnx ./my-reformer OUT
      reformer-export onnx google/reformer-enwik8 OUT --num-hashes 8 --dtype float16
      reformer-export onnx ./my-reformer OUT --logits last --overwrite
      reformer-export onnx ./my-reformer OUT --max-hashes 8
    """
    check_new_folder(out, overwrite)
    say = _say_nothing if as_json else _say_on_stderr
    say("Loading the exporter ...")
    with leave_on_termination(), refuse_in_one_line("exporting"):
        loaded, export = _prepare_export(checkpoint, options, say)
        loaded = dataclasses.replace(loaded, source=source_with_path(loaded, out))
        with new_folder(out, overwrite) as folder:
            say("Tracing and writing the graph ...")
            manifest = export(folder, loaded)
            if verify:
                say("Comparing with eager ...")
                manifest = _record_parity(ctx, folder, manifest, _verify_shortly(folder, manifest, loaded))
    click.echo(json_text(manifest.to_dict()) if as_json else f"{out}: {_describe(out, manifest)}")


def _say_on_stderr(line: str) -> None:
    click.echo(line, err=True)


def _say_nothing(_line: str) -> None:
    return


def _prepare_export(
    checkpoint: str, options: dict[str, Any], say: Say
) -> tuple[Checkpoint, Callable[[Path, Checkpoint], Manifest]]:
    """The checkpoint as `options` change it, and what writes it; every option is checked by then."""
    from reformer_export.checkpoints import LoadOptions, load_huggingface
    from reformer_export.export import DEFAULT_OPSET, ExportOptions, check_opset, write_artifact

    opset, max_hashes = options.pop("opset"), options.pop("max_hashes")
    if max_hashes is not None:
        _check_max_hashes(max_hashes, options["num_hashes"])
        options["num_hashes"] = max_hashes
    export_options = ExportOptions(
        options.pop("dtype"),
        DEFAULT_OPSET if opset is None else opset,
        runtime_num_hashes=max_hashes is not None,
    )
    check_opset(export_options.opset)
    slices = options.pop("chunk_feed_forward")
    load_options = LoadOptions(feed_forward_slices=slices, **options)
    say(f"Reading {checkpoint} ...")
    loaded = load_huggingface(checkpoint, load_options)
    return loaded, lambda folder, what: write_artifact(what, folder, export_options)


def _check_max_hashes(max_hashes: int, num_hashes: int | None) -> None:
    if num_hashes is not None:
        raise InputError(
            f"--max-hashes: got {max_hashes} and --num-hashes {num_hashes}, expected one of them; give "
            "--max-hashes alone to choose at run time, or --num-hashes alone for a fixed number"
        )


def _verify_shortly(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> VerifyResult:
    from reformer_export.parity.cases import add_num_hashes_cases, default_cases
    from reformer_export.parity.sweep import verify_artifact

    cases = add_num_hashes_cases(manifest, default_cases(manifest.spec, short=True))
    return verify_artifact(folder, checkpoint.folder, cases)


def _record_parity(ctx: click.Context, folder: Path, manifest: Manifest, result: VerifyResult) -> Manifest:
    """Write the comparison into the manifest; leave with status 1 when it failed."""
    if not result.passed:
        click.echo(
            f"Error: parity with eager: {result.verdict()}; nothing was written, use --no-verify to write it "
            "nevertheless and `reformer-export verify` to see every case",
            err=True,
        )
        ctx.exit(EXIT_CHECK_FAILED)
    manifest = dataclasses.replace(manifest, parity=result.summary())
    write_manifest(folder, manifest)
    return manifest


def _describe(out: Path, manifest: Manifest) -> str:
    spec = manifest.spec
    size = sum((out / name).stat().st_size for name in manifest.files) / 1e6
    text = (
        f"{spec.task}, {len(spec.layers)} layers, {manifest.dtype}, up to {spec.max_length} tokens, "
        f"{size:.1f} MB"
    )
    if manifest.runtime_num_hashes is not None:
        text += f", 1 to {manifest.runtime_num_hashes.max_hashes} hashes"
    if manifest.parity is None:
        return f"{text}; not compared with eager"
    return f"{text}; largest difference to eager {manifest.parity['max_pinned_error']:.1e}"
