"""One LSH layer under Nsight Compute, and the numbers that matter of the pages it prints.

    ncu --profile-from-start off --set full python -m benchmarks.gpu_profile run --dtype float16 > PAGE.txt
    python -m benchmarks.gpu_profile read "float16, 16,384 tokens, 4 hashes" PAGE.txt --out gpu.json

Only the layer that is profiled runs between the profiler's start and stop, so that the page has one entry a
launch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.gpu_results import load_results, update_results
from benchmarks.report import RESULTS

METRICS: Final = (
    "Duration",
    "Issue Slots Busy",
    "No Eligible",
    "Achieved Occupancy",
    "Registers Per Thread",
    "DRAM Throughput",
    "L2 Hit Rate",
    "Executed Instructions",
)
"""Names as the pages have them, each with its unit."""

KERNEL: Final = re.compile(r"^  (\S.*?)\(.*\) \(\d+, \d+, \d+\)x\(\d+, \d+, \d+\), Context", re.MULTILINE)


def parse_page(text: str, layer: str) -> list[dict[str, Any]]:
    """Entries of `profiles` from what Nsight Compute prints, one a launch, in order."""
    found = list(KERNEL.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)] * bool(found)
    return [
        {
            "layer": layer,
            "kernel": match[1].replace("unnamed>::", "").removeprefix("void "),
            "metrics": parse_metrics(text[match.end() : end]),
        }
        for match, end in zip(found, ends, strict=True)
    ]


def parse_metrics(section: str) -> dict[str, str]:
    """`METRICS` of one launch, by name: "122.78 us"."""
    metrics = {}
    for name in METRICS:
        row = re.search(rf"^ +{re.escape(name)} +(\S+) +([\d.,]+)\s*$", section, re.MULTILINE)
        if row:
            metrics[name] = f"{row[2]} {row[1]}"
    return metrics


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--dtype", default="float16", show_default=True)
@click.option("--tokens", default=16384, show_default=True)
@click.option("--hashes", default=4, show_default=True)
def run(dtype: Any, tokens: int, hashes: int) -> None:
    """The layer, three times to warm up and once for the profiler."""
    from benchmarks.gpu_machine import require_gpu

    require_gpu("gpu_profile run")
    import torch

    from benchmarks.gpu_layers import GPULayer, Ours
    from benchmarks.layers import Layer

    ours = Ours(GPULayer(Layer("lsh", tokens, hashes), dtype))
    for _ in range(3):
        ours()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    ours()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


@main.command()
@click.argument("layer")
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", default=RESULTS / "gpu.json", show_default=True, type=click.Path(path_type=Path))
def read(layer: str, page: Path, out: Path) -> None:
    """Put the page's numbers into the results, in place of those of the same LAYER."""
    entries = parse_page(page.read_text(encoding="utf-8", errors="replace"), layer)
    if not entries:
        raise click.ClickException(f"page: got no kernel in {page}, expected what ncu prints; see the file")
    kept = load_results(out).get("profiles", []) if out.is_file() else []
    update_results(out, {"profiles": [entry for entry in kept if entry["layer"] != layer] + entries})
    click.echo(f"{len(entries)} launches of {layer}: {out}")


if __name__ == "__main__":
    main()
