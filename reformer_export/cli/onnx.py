"""`reformer-export onnx`: a checkpoint -> a verified artifact."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact import Manifest, check_new_folder, new_folder, write_manifest
from reformer_export.errors import EXIT_CHECK_FAILED, InputError
from reformer_export.spec import DTYPES, TASKS


class NumBuckets(click.ParamType):
    """A bucket count, or its factors: 64 or 8x16."""

    name = "N|AxB"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(factor) for factor in str(value).lower().split("x"))
        except ValueError:
            self.fail(f"got {value!r}, expected a number such as 64, or factors such as 8x16", param, ctx)


@click.command("onnx")
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(["auto", *TASKS]), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--num-hashes", type=click.IntRange(1), help="Hash rounds; more are slower and attend better.")
@click.option("--num-buckets", type=NumBuckets(), help="Buckets, or their factors: 64 or 8x16.")
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
@click.option("--opset", type=int, default=None, help="ONNX opset, 18 or later.  [default: 20]")
@click.option("--revision", help="Branch, tag or commit of a hub checkpoint.")
@click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin (weights only) if there is no safetensors."
)
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Compare with eager on a few inputs."
)
@click.option("--overwrite", is_flag=True, help="Replace the artifact OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(checkpoint: str, out: Path, verify: bool, overwrite: bool, as_json: bool, **options: Any) -> int:
    """Export CHECKPOINT (a folder saved by transformers, or a hub id) to the new folder OUT.

    OUT gets model.onnx, which any ONNX Runtime runs at any batch size and length, and manifest.json. A short
    comparison with eager follows; `reformer-export verify` makes a thorough one. Exit status 1: OUT was
    written, but the comparison failed.

    \b
    Examples:
      reformer-export onnx ./my-reformer OUT
      reformer-export onnx google/reformer-enwik8 OUT --num-hashes 8 --dtype float16
      reformer-export onnx ./my-reformer OUT --logits last --overwrite
    """
    check_new_folder(out, overwrite)
    say: Callable[[str], None] = (
        (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True))
    )
    say("Loading the exporter ...")
    manifest = _export(checkpoint, out, verify, overwrite, options, say)
    if as_json:
        click.echo(json.dumps(manifest.to_dict(), indent=2))
    else:
        click.echo(f"{out}: {_describe(out, manifest)}")
    failed = manifest.parity is not None and not manifest.parity["passed"]
    if failed:
        click.echo(
            f"Error: parity with eager: got a worst case ({manifest.parity and manifest.parity['worst']}) beyond the "
            f"tolerance, expected agreement; see `reformer-export verify {out}`",
            err=True,
        )
    return EXIT_CHECK_FAILED if failed else 0


def _export(
    checkpoint: str,
    out: Path,
    verify: bool,
    overwrite: bool,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> Manifest:
    from reformer_export.checkpoints import LoadOptions, load_huggingface
    from reformer_export.export import DEFAULT_OPSET, ExportOptions, check_opset, write_artifact

    export_options = ExportOptions(dtype=options.pop("dtype"), opset=options.pop("opset") or DEFAULT_OPSET)
    check_opset(export_options.opset)
    slices = options.pop("chunk_feed_forward")
    say(f"Reading {checkpoint} ...")
    loaded = load_huggingface(checkpoint, LoadOptions(feed_forward_slices=slices, **options))
    if "commit" not in loaded.source:
        relative = os.path.relpath(loaded.folder, out)
        loaded = dataclasses.replace(loaded, source={**loaded.source, "path": Path(relative).as_posix()})
    with new_folder(out, overwrite) as folder:
        say("Tracing and writing the graph ...")
        manifest = write_artifact(loaded, folder, export_options)
        if verify:
            say("Comparing with eager ...")
            manifest = dataclasses.replace(manifest, parity=_short_parity(folder, loaded.folder))
            write_manifest(folder, manifest)
    return manifest


def _short_parity(folder: Path, checkpoint_folder: Path) -> dict[str, Any]:
    from reformer_export.artifact import read_manifest
    from reformer_export.parity import default_cases, silence_transformers, verify_artifact

    silence_transformers()
    cases = default_cases(read_manifest(folder).spec, short=True)
    return verify_artifact(folder, checkpoint_folder, cases).summary()


def _describe(out: Path, manifest: Manifest) -> str:
    spec = manifest.spec
    size = sum((out / name).stat().st_size for name in manifest.files) / 1e6
    text = f"{spec.task}, {len(spec.layers)} layers, {manifest.dtype}, up to {spec.max_length} tokens, {size:.1f} MB"
    if manifest.parity is None:
        return f"{text}; not compared with eager"
    return f"{text}; largest difference to eager {manifest.parity['max_pinned_error']:.1e}"


def checkpoint_folder(out: Path, manifest: Manifest, checkpoint: str | None) -> Path:
    """The folder of the checkpoint that `out` was exported from, or of the one that the user names instead.

    InputError when it is unknown, or its weights are not those that were exported.
    """
    from reformer_export.artifact import sha256_of_file
    from reformer_export.checkpoints import LoadOptions, locate_checkpoint

    source = manifest.source
    if checkpoint is None and "path" in source and (out / source["path"]).is_dir():
        checkpoint = str(out / source["path"])
    elif checkpoint is None and "commit" in source:
        checkpoint = source["name"]
    if checkpoint is None:
        raise InputError(
            f"checkpoint of {out}: got none where it was at the export ({source.get('path', 'unknown')}), expected "
            "the folder or hub id that was exported; give it with --checkpoint"
        )
    location = locate_checkpoint(checkpoint, LoadOptions(revision=source.get("commit")))
    for name, digest in source.get("files", {}).items():
        path = location.folder / name
        if not path.is_file() or sha256_of_file(path) != digest:
            raise InputError(
                f"checkpoint {checkpoint}: got another {name} than the one that {out} was exported from, expected "
                "the same file; give the right --checkpoint, or export again"
            )
    return location.folder
