"""What the commands that run an artifact share: their options, opening it, ids on the command line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

import click

from reformer_export.cli.tables import echo_on_stderr
from reformer_export.libraries.operators import NATIVE_MODES
from reformer_export.runtimes import RUNTIMES, Runtime, RuntimeOptions, load

Command = Callable[..., object]

RUNTIME_SECTIONS: Final = {
    "Runtime": ("runtime", "num_hashes", "no_check"),
    "ONNX Runtime": ("provider", "native", "threads"),
    "GPU": ("device_id", "tf32", "engine", "cuda_graphs", "allow_engine_code"),
}
"""The options of `runtime_options` by heading."""


def runtime_options(command: Command) -> Command:
    """Add --runtime and its runtimes' options; the command gets them as one argument, `choice`."""

    @functools.wraps(command)
    def with_choice(*arguments: Any, no_check: bool, **options: Any) -> object:
        fields = {
            field.name: options.pop(field.name)
            for field in dataclasses.fields(RuntimeOptions)
            if field.name in options
        }
        return command(*arguments, choice=RuntimeOptions(**fields, check=not no_check), **options)

    no_check_option = click.option(
        "--no-check", is_flag=True, help="Do not compare the artifact's files with the manifest's SHA-256."
    )
    with_own = native_option(threads_option(tf32_option(num_hashes_option(no_check_option(with_choice)))))
    return runtime_option(engine_options(provider_option(device_id_option(with_own))))


runtime_option = click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default=RUNTIMES[0],
    help="What runs the artifact; the TensorRTs run an engine built before.",
)


def engine_options(command: Command) -> Command:
    """Add --engine, --allow-engine-code and --cuda-graphs."""
    command = click.option(
        "--allow-engine-code",
        is_flag=True,
        help="TensorRT: open an engine that carries machine code, which runs as you (see `inspect`).",
    )(command)
    command = click.option(
        "--cuda-graphs",
        is_flag=True,
        help="TensorRT: launch the work of a shape that comes again as one CUDA graph.",
    )(command)
    return click.option(
        "--engine",
        metavar="NAME",
        help="TensorRT: which of the artifact's engines.  [default: the only one that fits this machine]",
    )(command)


provider_option = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to run; auto takes CUDA when it is there.",
)

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of an operator.  [default: all cores]"
)

device_id_option = click.option(
    "--device-id",
    type=click.IntRange(min=0),
    help="CUDA, TensorRT: which GPU, as `doctor` counts them.  [default: the first]",
)

num_hashes_option = click.option(
    "--num-hashes",
    type=click.IntRange(min=1),
    help="Hash rounds, for an artifact exported with --max-hashes.  [default: all of them]",
)

tf32_option = click.option(
    "--tf32",
    is_flag=True,
    help="CUDA: round what float32's products multiply to TF32; faster, with the errors of float16.",
)

native_option = click.option(
    "--native",
    type=click.Choice(NATIVE_MODES),
    default="auto",
    help="Use the native operator library; auto takes it when it is installed.",
)


def open_artifact(out: str, choice: RuntimeOptions) -> Runtime:
    """Open the artifact, until the command ends, and show on standard error what to know of it."""
    context = click.get_current_context()
    runtime = context.with_resource(load(out, choice))
    click.echo(f"Runs on {runtime.description}.", err=True)
    shown = _show_notes(runtime, 0)
    context.call_on_close(lambda: _show_notes(runtime, shown))  # what running it has taught
    return runtime


def _show_notes(runtime: Runtime, shown: int) -> int:
    """Show the notes after the first `shown`; how many there are."""
    for note in runtime.notes[shown:]:
        echo_on_stderr(f"Note: {note}")
    return len(runtime.notes)
