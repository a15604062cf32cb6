"""Our CUDA kernels, and whole models on them, against eager, fused and full attention, and the floor.

    python -m benchmarks.bench_gpu layers [--lengths 1024,16384] [--dtypes float16] [--out FILE.json]
    python -m benchmarks.bench_gpu steps [--contexts 16384] [--batches 1,64] [--out FILE.json]
    python -m benchmarks.bench_gpu models [--models crime] [--out FILE.json]

Each writes its part of the file (benchmarks/gpu_results.py), entry by entry, so that a run that is stopped
leaves what it measured; `benchmarks.gpu_report` makes docs/gpu-results.md of it. Without a GPU: status 2,
nothing written. What cannot be measured is listed in the results with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import torch

import reformer_export
from benchmarks.gpu_cards import GPU
from benchmarks.gpu_floor import floor_seconds
from benchmarks.gpu_layers import PEERS, TOLERANCES, GPULayer, Ours, estimate_bytes, measure_difference
from benchmarks.gpu_machine import Deadline, ceilings_entry, describe_gpu, measure_card, require_gpu
from benchmarks.gpu_results import update_results
from benchmarks.gpu_steps import BATCHES, CONTEXTS, bench_step, list_steps
from benchmarks.gpu_timing import Run, measure_extra_bytes, measure_kernels, time_in_turns
from benchmarks.layers import Layer
from benchmarks.report import RESULTS
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.errors import ReformerExportError
from reformer_export.libraries.operators import find_native_library

LENGTHS: Final = "16384,1024,4096,65536,2048,8192,32768"
"""What is most wanted first: time may end before the list does."""

KERNEL_LENGTH: Final = 16384
"""Tokens of the layers whose kernels are listed one by one."""

SLOW_PEER_TOKENS: Final = 32768
"""Full attention is left out from here on: its logits fill any card."""


def open_peers(gpu_layer: GPULayer) -> tuple[dict[str, Run], dict[str, str]]:
    """The peers that fit into memory, and why the others are not timed."""
    free, _ = torch.cuda.mem_get_info()
    runs, refused = {}, {}
    for name, open_peer in PEERS.items():
        needed = estimate_bytes(name, gpu_layer)
        if needed > 0.8 * free or (name == "full" and gpu_layer.layer.length >= SLOW_PEER_TOKENS):
            refused[name] = f"needs {needed / 1e9:.3g} GB"
            continue
        run = open_peer(gpu_layer)
        try:
            run()
            runs[name] = run
        except (RuntimeError, ValueError) as error:  # out of memory is a RuntimeError too
            refused[name] = " ".join(str(error).split())[:120]
    return runs, refused


def bench_layer(gpu_layer: GPULayer, card: GPU, turns: int) -> dict[str, Any]:
    """One entry of `layers`; ClickException when the layer's output is wrong."""
    torch.cuda.empty_cache()
    layer = gpu_layer.layer
    ours = Ours(gpu_layer)
    runs, refused = open_peers(gpu_layer)
    difference = None
    if gpu_layer.dtype != "float32" or "hf" in runs:
        difference = measure_difference(gpu_layer, ours, runs.get("hf", ours))
        if not difference <= TOLERANCES[gpu_layer.dtype]:
            raise click.ClickException(
                f"{layer.name}, {gpu_layer.dtype}: got a difference of {difference:.1e}, expected at most "
                f"{TOLERANCES[gpu_layer.dtype]:.0e}; run the tests marked gpu"
            )
    return {
        **describe_layer(gpu_layer),
        "seconds": time_in_turns({**ours.parts(), **runs}, turns),
        "not_timed": refused,
        "extra_bytes": {name: measure_extra_bytes(run) for name, run in {"ours": ours, **runs}.items()},
        "floor_seconds": floor_seconds(gpu_layer.shape, card),
        "difference": difference,
    }


def profile_kernels(gpu_layer: GPULayer, card: GPU) -> dict[str, Any]:
    """One entry of `kernels`."""
    return {
        **describe_layer(gpu_layer),
        "seconds": measure_kernels(Ours(gpu_layer)),
        "floor_seconds": floor_seconds(gpu_layer.shape, card),
    }


def describe_layer(gpu_layer: GPULayer) -> dict[str, Any]:
    layer = gpu_layer.layer
    return {
        "kind": layer.kind,
        "tokens": layer.length,
        "num_hashes": layer.num_hashes,
        "dtype": gpu_layer.dtype,
    }


def list_layers(lengths: list[int], hashes: list[int], dtypes: list[str]) -> Iterator[GPULayer]:
    for length in lengths:
        for layer in (*(Layer("lsh", length, rounds) for rounds in hashes), Layer("local", length, 0)):
            for dtype in dtypes:
                yield GPULayer(layer, dtype)  # type: ignore[arg-type]


def _list_of(kind: type) -> Any:
    def parse(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",") if part]
        except ValueError:
            raise click.BadParameter(f"got {text!r}, expected values with commas between") from None

    return parse


def _join(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


turns_option = click.option("--turns", default=10, show_default=True, type=click.IntRange(1))
seconds_option = click.option("--seconds", type=click.FloatRange(0), help="Begin nothing new after these.")
out_option = click.option(
    "--out", default=RESULTS / "gpu.json", show_default=True, type=click.Path(path_type=Path)
)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--lengths", default=LENGTHS, show_default=True, callback=_list_of(int))
@click.option("--hashes", default="4,1,8,2", show_default=True, callback=_list_of(int))
@click.option("--dtypes", default="float16,float32,bfloat16", show_default=True, callback=_list_of(str))
@turns_option
@seconds_option
@out_option
@silence_transformers()
def layers(
    lengths: list[int], hashes: list[int], dtypes: list[str], turns: int, seconds: float | None, out: Path
) -> None:
    """One attention layer: every length, number of hashes and dtype."""
    require_gpu("bench_gpu layers")
    deadline = Deadline(seconds)
    machine = describe_gpu()
    card, ceilings = measure_card(machine)
    entries: list[dict[str, Any]] = []
    kernels: list[dict[str, Any]] = []
    late: list[str] = []
    try:
        library = str(find_native_library("on"))
        for gpu_layer in list_layers(lengths, hashes, dtypes):
            name = f"{gpu_layer.layer.name}, {gpu_layer.dtype}"
            if deadline.passed:
                late.append(f"{name}: no time left")
                continue
            click.echo(name, err=True)
            entries.append(bench_layer(gpu_layer, card, turns))
            if gpu_layer.layer.length == KERNEL_LENGTH:
                kernels.append(profile_kernels(gpu_layer, card))
            update_results(
                out,
                {
                    "machine": machine,
                    "code": f"reformer-export {reformer_export.__version__}",
                    "library": library,
                    **ceilings_entry(ceilings),
                    "layers": entries,
                    "kernels": kernels,
                },
            )
    except (ReformerExportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    update_results(out, {"missing": {"layers": late}})
    click.echo(f"{len(entries)} layers timed, {len(late)} left out: {out}")


@main.command()
@click.option("--contexts", default=_join(CONTEXTS), show_default=True, callback=_list_of(int))
@click.option("--batches", default=_join(BATCHES), show_default=True, callback=_list_of(int))
@click.option("--dtypes", default="float16,float32", show_default=True, callback=_list_of(str))
@turns_option
@seconds_option
@out_option
def steps(
    contexts: list[int],
    batches: list[int],
    dtypes: list[str],
    turns: int,
    seconds: float | None,
    out: Path,
) -> None:
    """One new token of every row against its cache: every context, batch size and dtype."""
    require_gpu("bench_gpu steps")
    deadline = Deadline(seconds)
    machine = describe_gpu()
    entries: list[dict[str, Any]] = []
    missing: list[str] = []
    for layer in list_steps(contexts, batches, dtypes):
        if deadline.passed:
            missing.append(f"{layer.name}: no time left")
            continue
        click.echo(layer.name, err=True)
        try:
            entries.append(bench_step(layer, turns))
        except torch.OutOfMemoryError:
            missing.append(f"{layer.name}: more memory than there is")
        except (ReformerExportError, ValueError) as error:
            raise click.ClickException(str(error)) from error
        update_results(out, {"machine": machine, "steps": entries})
    update_results(out, {"missing": {"steps": missing}})
    click.echo(f"{len(entries)} steps timed, {len(missing)} left out: {out}")


@main.command()
@click.option("--models", "names", default="crime,enwik8", show_default=True, callback=_list_of(str))
@click.option("--dtypes", default="float16,float32,bfloat16", show_default=True, callback=_list_of(str))
@click.option("--lengths", default="16384,4096", show_default=True, callback=_list_of(int))
@turns_option
@seconds_option
@out_option
@silence_transformers()
def models(
    names: list[str],
    dtypes: list[str],
    lengths: list[int],
    turns: int,
    seconds: float | None,
    out: Path,
) -> None:
    """Whole models of random weights, every dtype and length."""
    require_gpu("bench_gpu models")
    from benchmarks.gpu_models import bench_model
    from benchmarks.models import prepare_model

    deadline = Deadline(seconds)
    entries: list[dict[str, Any]] = []
    missing: list[str] = []
    for dtype in dtypes:
        for name in names:
            if deadline.passed:
                missing.append(f"{name}, {dtype}: no time left")
                continue
            click.echo(f"{name}, {dtype}", err=True)
            try:
                model = prepare_model(name, dtype=dtype)  # type: ignore[arg-type]
                entries += bench_model(model, dtype, lengths, turns)
            except (ReformerExportError, RuntimeError) as error:
                missing.append(f"{name}, {dtype}: {' '.join(str(error).split())[:200]}")
            update_results(out, {"machine": describe_gpu(), "models": entries})
    update_results(out, {"missing": {"models": missing}})
    click.echo(f"{len(entries)} entries of whole models, {len(missing)} left out: {out}")


if __name__ == "__main__":
    main()
