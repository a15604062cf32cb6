"""`reformer-export onnx`: a checkpoint -> a verified artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import (
    STANDARD_OUTPUT,
    json_file_option,
    names_from_option,
    num_buckets_from_option,
    write_json,
)
from reformer_export.cli.tables import echo_on_stderr
from reformer_export.contract import DEFAULT_OPSET
from reformer_export.low_precision import PROJECTIONS, WEIGHTS_TYPES
from reformer_export.spec import DTYPES, TASKS
from reformer_export.workflows.export import ExportedArtifact, ExportRequest, export_checkpoint
from reformer_export.workflows.progress import say_nothing

SECTIONS = {
    "Checkpoint": ("config", "revision", "allow_pickle", "task", "tokenizer"),
    "Model": (
        *("dtype", "num_hashes", "max_hashes", "num_buckets", "hash_seed", "max_length", "logits"),
        *("decode", "feed_forward_slices", "opset"),
    ),
    "Weights of few bits": ("weights", "keep", "data", "max_loss"),
    "Output": ("verify", "overwrite", "json_file"),
}


@click.command("onnx", cls=Command, sections=SECTIONS)
@click.argument("checkpoint", type=click.Path())
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["auto", *TASKS]),
    default="auto",
    help="What the model is for; auto takes the checkpoint's head.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
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
    help="Logits of all positions, or of the last attended one (for generation).",
)
@click.option(
    "--tokenizer",
    type=click.Choice(["auto", "bytes", "none"]),
    default="auto",
    help="How text becomes ids: by the checkpoint's own tokenizer, or by bytes where it has none and exactly "
    "their 258 ids; bytes (id = byte + 2); none for token ids only.",
)
@click.option(
    "--chunk-feed-forward",
    "feed_forward_slices",
    type=click.IntRange(1),
    default=1,
    help="Compute the feed-forward's inner dimension in N slices: less memory at great lengths.",
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS_TYPES),
    help="Store the dense layers' weights in int8, with a scale for each output (what they are multiplied by "
    "is rounded too, each token by itself), or in int4, with a scale for each 32 inputs: small, no faster.",
)
@click.option(
    "--keep",
    metavar="NAME,NAME,...",
    callback=names_from_option,
    help=f"Projections whose weights stay in --dtype: {', '.join(PROJECTIONS)}.  [default: none]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A UTF-8 text: measure on it what the artifact loses against the original model.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0),
    help="Write nothing when more than X bits per character are lost on --data.",
)
@click.option(
    "--decode", is_flag=True, help="Add decode.onnx: `generate` then computes new tokens only, from a cache."
)
@click.option("--opset", type=int, default=DEFAULT_OPSET, help="ONNX opset, 18 or later.")
@click.option(
    "--config",
    metavar="JSON",
    type=click.Path(path_type=Path),
    help="Keyword arguments of a model of reformer-pytorch, whose tensors are the file CHECKPOINT.",
)
@click.option("--revision", help="Branch, tag or commit of a hub checkpoint.")
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read a folder's pytorch_model.bin (weights only) if there is no safetensors.",
)
@click.option("--verify/--no-verify", default=True, help="Compare with eager on a few inputs.")
@click.option("--overwrite", is_flag=True, help="Replace the artifact OUT, when the new one is whole.")
@json_file_option
def command(checkpoint: str, out: Path, json_file: Path | None, **options: Any) -> None:
    """Export CHECKPOINT (a folder saved by transformers, or a hub id; with --config a file of tensors that
    reformer-pytorch's model saved) to the new folder OUT.

    OUT gets model.onnx, which any ONNX Runtime runs at any batch size and length, and manifest.json. A short
    comparison with eager comes first; `reformer-export verify` makes a thorough one. Exit status 1: the
    comparison failed, and OUT is as it was before; --no-verify writes it nevertheless.

    \b
    Examples:
      reformer-export onnx ./my-reformer OUT
      reformer-export onnx google/reformer-enwik8 OUT --num-hashes 8 --dtype float16
      reformer-export onnx ./my-reformer OUT --logits last --overwrite
      reformer-export onnx ./my-reformer OUT --max-hashes 8
      reformer-export onnx ./my-reformer OUT --decode
      reformer-export onnx ./my-reformer OUT --weights int8 --data held-out.txt --max-loss 0.003
      reformer-export onnx model.pt OUT --config kwargs.json
    """
    request = ExportRequest(**options)
    say = say_nothing if json_file == STANDARD_OUTPUT else echo_on_stderr
    with leave_on_termination(), refuse_in_one_line("exporting"):
        exported = export_checkpoint(checkpoint, out, request, say=say)
    if not write_json(json_file, exported.manifest.to_dict()):
        click.echo(f"{out}: {_describe(exported)}")


def _describe(exported: ExportedArtifact) -> str:
    manifest, spec = exported.manifest, exported.manifest.spec
    text = (
        f"{spec.task}, {len(spec.layers)} layers, {manifest.precision}, "
        f"up to {spec.max_length} tokens, {exported.size / 1e6:.1f} MB"
    )
    if manifest.runtime_num_hashes is not None:
        text += f", 1 to {manifest.runtime_num_hashes.max_hashes} hashes"
    if manifest.decode is not None:
        text += f", decodes from {manifest.decode.bytes_per_token / 1000:.1f} kB of cache a token"
    if manifest.parity is None:
        return f"{text}; not compared with eager"
    if manifest.loss is not None:
        text += f"; loses {manifest.loss}"
    return f"{text}; largest difference to eager {manifest.parity['max_pinned_error']:.1e}"
