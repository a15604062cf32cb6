"""`reformer-export engine`: an artifact -> an engine of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES, EngineFlags
from reformer_export.artifact.manifest import read_manifest
from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import (
    json_file_option,
    output_path_from_option,
    shapes_from_option,
    write_json,
)
from reformer_export.cli.tables import print_table, progress_lines
from reformer_export.cli.verbosity import is_debug
from reformer_export.engine import (
    EngineOptions,
    Progress,
    build_engine,
    profiles_from_shapes,
    size_from_text,
)
from reformer_export.report.tables import engine_table
from reformer_export.workflows.progress import say_nothing

SECTIONS = {
    "Engine": ("runtime", "name", "decode", "overwrite", "num_hashes", "tf32"),
    "Shapes": ("minimums", "optimums", "maximums", "capacity"),
    "Where it runs": (
        *("compute_capabilities", "version_compatible", "hardware_compatible", "embed_plugin"),
        *("refit", "stripped"),
    ),
    "Building": ("builder_level", "workspace", "timing_cache"),
    "Output": ("json_file", "report_layers"),
}


@click.command("engine", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--runtime",
    type=click.Choice(ENGINE_RUNTIMES),
    required=True,
    help="TensorRT builds on the GPU that the engine is for; TensorRT-RTX builds anywhere.",
)
@click.option(
    "--name",
    default="",
    show_default=False,
    metavar="NAME",
    help="The engine's name.  [default: the runtime's]",
)
@click.option(
    "--decode",
    is_flag=True,
    help="Of decode.onnx: an engine that continues sequences, at the cost of their new tokens.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="N.N",
    help="A GPU generation the engine is for, such as 8.9; repeatable.  [default: this machine's GPU]",
)
@click.option(
    "--min",
    "minimums",
    multiple=True,
    metavar="BxL",
    callback=shapes_from_option,
    help="Least batch and length the engine takes; repeatable, once a profile.  [default: 1x1]",
)
@click.option(
    "--opt",
    "optimums",
    multiple=True,
    metavar="BxL",
    callback=shapes_from_option,
    help="Batch and length it is tuned for.  [default: a quarter of the greatest length]",
)
@click.option(
    "--max",
    "maximums",
    multiple=True,
    metavar="BxL",
    callback=shapes_from_option,
    help="Greatest batch and length.  [default: 1 x the model's longest, at most 65536]",
)
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    help="With --decode: tokens that a sequence may have in all.  [default: the longest prompt's, or more]",
)
@click.option(
    "--builder-level",
    type=click.IntRange(0, 5),
    metavar="0-5",
    help="How thoroughly TensorRT searches for fast kernels.  [default: its own, 3]",
)
@click.option(
    "--workspace", metavar="SIZE", help="GPU memory for scratch space: 512M, 4G.  [default: no limit]"
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    callback=output_path_from_option,
    help="Measured kernel times, read and kept; TensorRT only.  [default: OUT/engines/timing.cache]",
)
@click.option(
    "--tf32",
    is_flag=True,
    help="Round what float32's products multiply to TF32; faster, with the errors of float16.",
)
@click.option(
    "--num-hashes",
    type=click.IntRange(min=1),
    help="Hash rounds that are built in, of an artifact exported with --max-hashes.",
)
@click.option("--refit", is_flag=True, help="Weights can be exchanged in the engine; needs a GPU.")
@click.option("--strip-weights", "stripped", is_flag=True, help="Leave weights out; needs a GPU.")
@click.option("--version-compatible", is_flag=True, help="Newer TensorRT versions load it; TensorRT only.")
@click.option("--hardware-compatible", is_flag=True, help="All GPUs from Ampere on run it; TensorRT only.")
@click.option("--embed-plugin", is_flag=True, help="Carry the plugin library in the engine.")
@click.option(
    "--layers", "report_layers", is_flag=True, help="Write NAME.layers.txt: what runs; needs a GPU."
)
@click.option("--overwrite", is_flag=True, help="Replace the engine NAME, when the new one is whole.")
@json_file_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path,
    minimums: tuple[tuple[int, ...], ...],
    optimums: tuple[tuple[int, ...], ...],
    maximums: tuple[tuple[int, ...], ...],
    json_file: Path | None,
    **options: Any,
) -> None:
    """Build OUT/engines/NAME.engine, and NAME.json which says what it is, from the artifact OUT.

    The engine runs the model's attention with this project's plugins, and takes every batch and length
    within its profiles. A profile is one --min, --opt and --max; give them several times for several. Lengths
    that are multiples of the model's chunk lengths cost least. With --decode, lengths are those of prompts,
    and a token that continues a sequence is one of length 1.

    A custom module's profiles have a size for each of its symbolic dimensions, with an x between them, in the
    order in which `inspect` lists them.

    \b
    Examples:
      reformer-export engine OUT --runtime tensorrt-rtx --compute-capability 8.9 --compute-capability 12.0
      reformer-export engine OUT --runtime tensorrt --max 8x16384 --opt 1x4096
      reformer-export engine OUT --runtime tensorrt-rtx --num-hashes 4 --name four
      reformer-export engine OUT --runtime tensorrt --name two --max 1x1024 --max 1x65536
      reformer-export engine OUT --runtime tensorrt --decode --max 1x16384 --max 64x1
    """
    engine_options = _engine_options(options)
    spec = read_manifest(out).spec
    profiles = profiles_from_shapes(spec, minimums, optimums, maximums, engine_options.decode)
    engine_options = dataclasses.replace(engine_options, profiles=profiles)
    on_log = functools.partial(click.echo, err=True) if is_debug(ctx) else say_nothing
    with (
        leave_on_termination(),
        refuse_in_one_line("building the engine"),
        show_build(engine_options.engine_name) as on_progress,
    ):
        build = build_engine(out, engine_options, on_progress, on_log)
    for note in build.notes:
        click.echo(f"Note: {note}", err=True)
    if not write_json(json_file, {**build.record.to_dict(), "notes": list(build.notes)}):
        print_table(engine_table(f"Engine {build.path}", build.record))


def _engine_options(options: dict[str, Any]) -> EngineOptions:
    flags = EngineFlags(**{field.name: options.pop(field.name) for field in dataclasses.fields(EngineFlags)})
    workspace = options.pop("workspace")
    return EngineOptions(
        workspace=None if workspace is None else size_from_text(workspace), flags=flags, **options
    )


@contextmanager
def show_build(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a plain line every few seconds elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _plain_lines(name)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Building {name}", total=1.0)
        yield lambda progress: bar.update(
            task, completed=progress.fraction, description=f"Building {name}: {progress.phase}"
        )


def _plain_lines(name: str) -> Callable[[Progress], None]:
    show = progress_lines()

    def describe(progress: Progress) -> str:
        step = f"{progress.done} of {progress.total}"
        return f"Building {name}: {progress.fraction:.0%}, {progress.phase}, {step}"

    return lambda progress: show(lambda: describe(progress))
