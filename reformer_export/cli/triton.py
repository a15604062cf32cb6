"""`reformer-export triton`: an artifact -> a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import STANDARD_OUTPUT, json_file_option, write_json
from reformer_export.cli.runtime_options import (
    engine_options,
    native_option,
    num_hashes_option,
    provider_option,
    tf32_option,
    threads_option,
)
from reformer_export.cli.tables import echo_on_stderr, show_progress
from reformer_export.runtimes import RUNTIMES
from reformer_export.serving.triton.options import BACKENDS, DEFAULT_NAME, TritonRequest
from reformer_export.serving.triton.readme import start_command
from reformer_export.serving.triton.repository import write_triton_repository
from reformer_export.workflows.progress import say_nothing

SECTIONS = {
    "Serving": ("backend", "name", "max_batch_size", "queue_delay", "instances", "mounted_at"),
    "Generation": ("streams", "max_cache", "max_queue"),
    "Output": ("overwrite", "json_file"),
    "Runtime": ("runtime", "num_hashes", "provider", "native", "threads"),
    "GPU": ("tf32", "engine", "cuda_graphs", "allow_engine_code"),
}


@click.command("triton", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=BACKENDS[0],
    help="python joins texts of unlike lengths and writes; the others are Triton's own, of model.onnx and of "
    "an engine.",
)
@click.option("--name", default=DEFAULT_NAME, metavar="NAME", help="The model's.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    default=TritonRequest.max_batch_size,
    help="Rows that run together.",
)
@click.option(
    "--queue-delay",
    type=click.IntRange(0),
    default=TritonRequest.queue_delay,
    help="Microseconds that a request may wait for others.",
)
@click.option(
    "--instances", type=click.IntRange(1), default=1, help="Copies of the model, each a process or a session."
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=TritonRequest.streams,
    help="python: generations that step together.",
)
@click.option(
    "--max-cache",
    type=int,
    default=TritonRequest.max_cache,
    help="Bytes of caches of a model's texts at most; others wait.",
)
@click.option(
    "--max-queue",
    type=int,
    default=TritonRequest.max_queue,
    help="Requests of a model that wait at most; others are refused.",
)
@click.option(
    "--mounted-at",
    metavar="FOLDER",
    help="onnxruntime: where the server will see the repository.  [default: REPOSITORY]",
)
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), help="python: what runs the artifact.  [default: onnxruntime]"
)
@engine_options
@provider_option
@tf32_option
@threads_option
@native_option
@num_hashes_option
@click.option("--overwrite", is_flag=True, help="Replace REPOSITORY, when the new one is whole.")
@json_file_option
def command(out: str, repository: Path, json_file: Path | None, **options: Any) -> None:
    """Write the folder REPOSITORY, from which Triton Inference Server serves the artifact OUT.

    Its README.md says how to start the server and what its image needs; `reformer-export inspect REPOSITORY`
    checks it.

    \b
    Examples:
      reformer-export triton OUT REPOSITORY
      reformer-export triton OUT REPOSITORY --backend onnxruntime --mounted-at /models
      reformer-export triton OUT REPOSITORY --backend tensorrt --allow-engine-code
      reformer-export triton OUT REPOSITORY --instances 4 --threads 1 --overwrite
    """
    request = TritonRequest(**options)
    say = say_nothing if json_file == STANDARD_OUTPUT else echo_on_stderr
    with leave_on_termination(), refuse_in_one_line("writing the repository"):
        written = write_triton_repository(out, repository, request, say=say, progress=show_progress)
    if not write_json(json_file, written.to_dict()):
        models = ", ".join(written.record.models)
        click.echo(f"{repository}: {models}; {written.size / 1e6:.1f} MB")
        click.echo(f"Start: {start_command(request, written.folder)}")
