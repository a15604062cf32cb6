"""What the commands that run an artifact share: their options, opening it, ids on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from reformer_export.errors import InputError, MissingDependencyError
from reformer_export.native import NATIVE_MODES, NativeMode
from reformer_export.runtimes import Runtime, load
from reformer_export.runtimes.tokenizer import Tokenizer, load_tokenizer

Command = TypeVar("Command", bound=Callable[..., object])


def runtime_options(command: Command) -> Command:
    """Add --provider, --native and --threads."""
    command = click.option(
        "--threads", type=click.IntRange(min=1), help="CPU threads of an operator; default: all cores."
    )(command)
    return click.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to run; auto takes CUDA when it is there.",
    )(native_option(command))


def native_option(command: Command) -> Command:
    """Add --native."""
    return click.option(
        "--native",
        type=click.Choice(NATIVE_MODES),
        default="auto",
        show_default=True,
        help="Use the native operator library on the CPU; auto takes it when it is installed.",
    )(command)


def open_artifact(out: str, provider: str, threads: int | None, native: NativeMode) -> Runtime:
    """Open the artifact and show on standard error what the user should know of it."""
    runtime = load(out, provider=provider, threads=threads, native=native)
    click.echo(f"Runs on {describe_execution(runtime)}.", err=True)
    for note in runtime.notes:
        click.echo(f"Note: {note}", err=True)
    return runtime


def describe_execution(runtime: Runtime) -> str:
    """What executes the graph, in a few words."""
    provider = runtime.providers[0].removesuffix("ExecutionProvider")
    kernels = "function bodies" if runtime.native is None else f"native kernels {runtime.native}"
    return f"ONNX Runtime, {provider}, {kernels}"


def find_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """The artifact's tokenizer, or None where it has none or its package is missing."""
    try:
        return load_tokenizer(folder, vocab_size)
    except (InputError, MissingDependencyError):
        return None


def ids_from_text(option: str, text: str) -> list[int]:
    """Token ids from a comma-separated list such as "5,6,7"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f'{option}: got {text!r}, expected integers with commas; write e.g. "5,6,7"'
        ) from error
