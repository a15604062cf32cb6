"""Our CUDA kernels, and whole models on them, against eager, fused and full attention, and the floor.

    python -m benchmarks.bench_gpu [--lengths 1024,16384] [--dtypes float16] [--models crime] [--checks FILE]

Writes benchmarks/results/NAME.json and, from it alone, docs/gpu-results.md. Without a GPU it says so and
leaves with status 2. What cannot be measured is listed in the results with its reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click
import torch

from benchmarks.gpu_floor import A100_SXM_40GB, A100_SXM_80GB, GPU, H100_SXM, floor_seconds
from benchmarks.gpu_layers import PEERS, TOLERANCES, GPULayer, Ours, estimate_bytes, measure_difference
from benchmarks.gpu_report import render
from benchmarks.gpu_timing import Run, measure_extra_bytes, measure_kernels, time_in_turns
from benchmarks.layers import Layer
from benchmarks.report import RESULTS, describe_machine
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.errors import ReformerExportError
from reformer_export.libraries.operators import find_native_library

PAGE: Final = Path(__file__).parent.parent / "docs" / "gpu-results.md"
LENGTHS: Final = "1024,2048,4096,8192,16384,32768,65536"
NO_GPU: Final = 2
"""Exit status."""

KERNEL_LENGTH: Final = 16384
"""Tokens of the layers whose kernels are listed one by one."""

SLOW_PEER_TOKENS: Final = 32768
"""Full attention is left out from here on: its logits fill any card."""


def find_card(name: str, memory: int) -> GPU | None:
    """The model of the card that torch calls `name`, of `memory` bytes; None for a card without one."""
    if "H100" in name and "PCIe" not in name and "NVL" not in name:
        return H100_SXM
    if "A100" in name and "PCIE" not in name.upper():
        return A100_SXM_80GB if memory > 50e9 else A100_SXM_40GB
    return None


def describe_gpu() -> dict[str, Any]:
    """The machine, and the first GPU."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    return {
        **describe_machine(),
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


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


def bench_layer(gpu_layer: GPULayer, card: GPU | None, turns: int) -> dict[str, Any]:
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
        "kind": layer.kind,
        "tokens": layer.length,
        "num_hashes": layer.num_hashes,
        "dtype": gpu_layer.dtype,
        "seconds": time_in_turns({**ours.parts(), **runs}, turns),
        "not_timed": refused,
        "extra_bytes": {name: measure_extra_bytes(run) for name, run in {"ours": ours, **runs}.items()},
        "floor_seconds": None if card is None else floor_seconds(gpu_layer.shape, card),
        "difference": difference,
    }


def profile_kernels(gpu_layer: GPULayer, card: GPU | None) -> dict[str, Any]:
    """One entry of `kernels`."""
    return {
        "kind": gpu_layer.layer.kind,
        "tokens": gpu_layer.layer.length,
        "num_hashes": gpu_layer.layer.num_hashes,
        "dtype": gpu_layer.dtype,
        "seconds": measure_kernels(Ours(gpu_layer)),
        "floor_seconds": None if card is None else floor_seconds(gpu_layer.shape, card),
    }


def bench_layers(
    lengths: list[int], hashes: list[int], dtypes: list[str], card: GPU | None, turns: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of `layers` and of `kernels`."""
    layers, kernels = [], []
    for length in lengths:
        for layer in (*(Layer("lsh", length, rounds) for rounds in hashes), Layer("local", length, 0)):
            for dtype in dtypes:
                click.echo(f"{layer.name}, {dtype}", err=True)
                gpu_layer = GPULayer(layer, dtype)  # type: ignore[arg-type]
                layers.append(bench_layer(gpu_layer, card, turns))
                if length == KERNEL_LENGTH:
                    kernels.append(profile_kernels(gpu_layer, card))
    return layers, kernels


def bench_models(
    names: list[str], dtypes: list[str], lengths: list[int], turns: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of `models`, and what could not be opened."""
    from benchmarks.gpu_models import bench_model
    from benchmarks.models import prepare_model

    entries, missing = [], []
    for name in names:
        for dtype in dtypes:
            click.echo(f"{name}, {dtype}", err=True)
            try:
                model = prepare_model(name, dtype=dtype)  # type: ignore[arg-type]
                entries += bench_model(model, dtype, lengths, turns)
            except (ReformerExportError, RuntimeError) as error:
                missing.append(f"{name}, {dtype}: {' '.join(str(error).split())[:200]}")
    return entries, missing


def _list_of(kind: type) -> Any:
    def parse(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",") if part]
        except ValueError:
            raise click.BadParameter(f"got {text!r}, expected values with commas between") from None

    return parse


@click.command(help=__doc__)
@click.option("--lengths", default=LENGTHS, show_default=True, callback=_list_of(int), help="Of one layer.")
@click.option("--hashes", default="1,2,4,8", show_default=True, callback=_list_of(int))
@click.option("--dtypes", default="float16,bfloat16,float32", show_default=True, callback=_list_of(str))
@click.option(
    "--models", default="crime,enwik8", show_default=True, callback=_list_of(str), help="May be empty."
)
@click.option("--model-lengths", default="4096,16384", show_default=True, callback=_list_of(int))
@click.option("--turns", default=10, show_default=True, type=click.IntRange(1))
@click.option("--checks", type=click.Path(path_type=Path, exists=True), help="Lines for the page's Checks.")
@click.option("--name", default="gpu", show_default=True, help="Of the result file.")
@click.option("--page", default=PAGE, type=click.Path(path_type=Path), help="The page to write.")
@silence_transformers()
def main(
    lengths: list[int],
    hashes: list[int],
    dtypes: list[str],
    models: list[str],
    model_lengths: list[int],
    turns: int,
    checks: Path | None,
    name: str,
    page: Path,
) -> None:
    if not torch.cuda.is_available():
        click.echo(
            "bench_gpu: got no GPU that torch can use, expected an NVIDIA GPU; nothing written", err=True
        )
        sys.exit(NO_GPU)
    machine = describe_gpu()
    card = find_card(machine["gpu"], machine["memory_bytes"])
    try:
        library = str(find_native_library("on"))
        layers, kernels = bench_layers(lengths, hashes, dtypes, card, turns)
    except (ReformerExportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    entries, missing = bench_models(models, dtypes, model_lengths, turns)
    if card is None:
        missing.append(f"the floor: no model of a {machine['gpu']} (benchmarks/gpu_floor.py)")
    data = {
        "machine": machine,
        "library": library,
        "checks": checks.read_text(encoding="utf-8").splitlines()
        if checks
        else ["not run together with this"],
        "missing": missing,
        "layers": layers,
        "kernels": kernels,
        "models": entries,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    page.write_text(render(data), encoding="utf-8")
    click.echo(f"{page} written.")


if __name__ == "__main__":
    main()
