"""`reformer-export bench`: latency, throughput and memory of an artifact, against what it replaces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import click

from reformer_export.artifact.files import json_text, write_atomically
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.cli.failures import leave_on_termination, refuse_in_one_line
from reformer_export.cli.option_values import (
    STANDARD_OUTPUT,
    integers_from_option,
    json_file_option,
    report_option,
)
from reformer_export.cli.runtime_options import describe_execution, runtime_options
from reformer_export.cli.tables import print_table, show_progress
from reformer_export.errors import InputError
from reformer_export.libraries.operators import find_native_library
from reformer_export.measure import (
    BenchmarkOptions,
    Setup,
    missing_packages,
    run_benchmark,
)
from reformer_export.measure.contenders import AGAINST, Device, Name
from reformer_export.measure.node_times import NodeTimes, measure_node_times
from reformer_export.report import write_report
from reformer_export.report.bench_page import BenchReport, page_from_bench
from reformer_export.runtimes import RUNTIMES, Runtime, RuntimeOptions, load
from reformer_export.runtimes.ort import Placement
from reformer_export.workflows.checkpoint_source import find_checkpoint

DEFAULT_LENGTHS: Final = (256, 1024, 4096)
"""Those of them that the model takes; the model's greatest where it takes none."""


def names_from_option(_ctx: click.Context, param: click.Parameter, text: str) -> tuple[Name, ...]:
    """Contenders with commas; "none" for none."""
    given = [] if text == "none" else text.split(",")
    names = tuple(name for name in AGAINST if name in given)
    if len(names) != len(given):
        raise InputError(
            f"{param.opts[0]}: got {text!r}, expected {', '.join(AGAINST)} with commas, or none; "
            "name each once"
        )
    return names


@click.command("bench")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--checkpoint", help="Folder or hub id for eager; the one that was exported, by default.")
@click.option(
    "--against",
    default=",".join(AGAINST),
    show_default=True,
    metavar="NAME,...",
    callback=names_from_option,
    help="What to compare with; none for nothing.",
)
@click.option(
    "--lengths",
    metavar="N,N,...",
    callback=integers_from_option,
    help="Sequence lengths, in tokens.  [default: those of 256,1024,4096 that fit]",
)
@click.option(
    "--batch-sizes", metavar="N,N,...", callback=integers_from_option, help="Batch sizes.  [default: 1]"
)
@click.option(
    "--repeat", type=click.IntRange(1), default=20, show_default=True, help="Timed passes of each contender."
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Untimed passes of each contender before, at every shape.",
)
@click.option(
    "--memory/--no-memory", default=True, show_default=True, help="Measure memory, in processes of their own."
)
@runtime_options
@json_file_option
@report_option
def command(
    out: Path,
    checkpoint: str | None,
    against: tuple[Name, ...],
    choice: RuntimeOptions,
    json_file: Path | None,
    report_file: Path | None,
    **options: Any,
) -> None:
    """Measure the artifact OUT: latency percentiles, tokens a second and peak memory.

    Beside it, in the same run and in turns, stand eager (transformers, unpatched) and full attention (the
    same model with every attention full, in torch, on random weights), on the device that the runtime uses:
    on a GPU in the artifact's dtype, on a CPU in float32, which is the fastest there. What one of them lacks
    is said, and the rest measured. `verify` says whether the results agree; this asks for time only.

    \b
    Examples:
      reformer-export bench OUT
      reformer-export bench OUT --lengths 1024,16384 --batch-sizes 1,4 --repeat 50 --json bench.json
      reformer-export bench OUT --runtime tensorrt --against full-attention
      reformer-export bench OUT --report bench.html
    """
    manifest = read_manifest(out)
    with leave_on_termination(), refuse_in_one_line("benchmarking"):
        with load(out, choice) as runtime:
            click.echo(f"Runs on {describe_execution(runtime)}.", err=True)
            execution, notes = describe_execution(runtime), list(runtime.notes)
            device: Device = "cpu" if runtime.providers[0] == "CPUExecutionProvider" else "cuda"
            benchmark = BenchmarkOptions(
                lengths=_choose_lengths(runtime, options.pop("lengths")),
                batch_sizes=options.pop("batch_sizes") or (1,),
                **options,
            )
        setups, left_out = _choose_setups(out, manifest, choice, device, checkpoint, against)
        notes += left_out
        for note in notes:
            click.echo(f"Note: {note}", err=True)
        shapes = len(benchmark.lengths) * len(benchmark.batch_sizes)
        with show_progress("Measured", shapes * (len(setups) + 1)) as advance:
            result = run_benchmark(setups, benchmark, notes, advance)
        nodes = None if report_file is None else _node_times(out, choice, max(benchmark.lengths))
    report = BenchReport(out, manifest, execution, result, nodes, with_nodes=report_file is not None)
    _report(report, json_file)
    if report_file is not None:
        write_report(report_file, page_from_bench(report))


def _node_times(out: Path, choice: RuntimeOptions, length: int) -> NodeTimes | None:
    """Seconds of each operator in one pass of ONNX Runtime on the CPU; None for other runtimes and types."""
    manifest = read_manifest(out)
    if choice.runtime != RUNTIMES[0] or choice.provider == "cuda" or manifest.dtype == "bfloat16":
        return None
    placement = Placement(threads=choice.threads, library=find_native_library(choice.native))
    return measure_node_times(out / MODEL_NAME, manifest.spec.vocab_size, length, placement)


def _choose_lengths(runtime: Runtime, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is None:
        return tuple(n for n in DEFAULT_LENGTHS if n <= runtime.max_length) or (runtime.max_length,)
    for length in given:
        if not 1 <= length <= runtime.max_length:
            raise InputError(
                f"--lengths: got {length}, expected lengths from 1 to {runtime.max_length}, which is what "
                "this artifact takes here; mend --lengths"
            )
    return given


def _choose_setups(
    out: Path,
    manifest: Manifest,
    choice: RuntimeOptions,
    device: Device,
    checkpoint: str | None,
    against: tuple[Name, ...],
) -> tuple[list[Setup], list[str]]:
    """The artifact and whoever of `against` can run here; a note for each of the others."""
    shared: dict[str, Any] = {"out": str(out), "load_options": dataclasses.asdict(choice), "device": device}
    shared["threads"] = choice.threads
    setups, notes = [Setup("artifact", **shared)], []
    for name in against:
        try:
            setups.append(Setup(name, **shared, **_needs_of(name, out, manifest, device, checkpoint)))
        except _MissingError as missing:
            notes.append(f"{name}: left out, {missing}")
    return setups, notes


class _MissingError(Exception):
    """What a contender lacks here, and how to get it."""


def _needs_of(
    name: Name, out: Path, manifest: Manifest, device: Device, checkpoint: str | None
) -> dict[str, Any]:
    """What `name`'s Setup holds besides what all have; _MissingError when it cannot run here."""
    missing = missing_packages(name)
    if missing:
        raise _MissingError(f"it needs {' and '.join(missing)}; pip install 'reformer-export[export]'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise _MissingError("the runtime uses a GPU and this torch cannot; install torch with CUDA")
    if name != "eager":
        return {}
    try:
        folder = find_checkpoint(out, manifest, checkpoint)
    except InputError as error:
        if checkpoint is not None:
            raise
        raise _MissingError(str(error)) from error
    from reformer_export.parity.sweep import DECODER_BIAS

    old_bias = DECODER_BIAS in manifest.source.get("renamed_weights", {})
    return {"checkpoint": str(folder), "has_only_old_bias": old_bias}


def _report(report: BenchReport, json_file: Path | None) -> None:
    """Print the table, or write the JSON where the user wants it."""
    if json_file == STANDARD_OUTPUT:
        click.echo(json_text(report.to_dict()))
        return
    if json_file is not None:
        write_atomically(json_file, json_text(report.to_dict()) + "\n")
    result = report.result
    print_table(report.table())
    click.echo(f"\nLatency: over {result.options.repeat} passes of each, in turns.")
    for setup in result.setups[1:]:
        click.echo(f"{setup.name}: torch, {setup.device}, {setup.dtype}.")
    if result.memory_measured is not None:
        click.echo(f"Memory: {result.memory_measured}.")
    for note in result.notes:
        click.echo(f"Note: {note}")
