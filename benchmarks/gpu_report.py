"""docs/gpu-results.md from the JSON of one session on a GPU (benchmarks/gpu_results.py) and nothing else.

python -m benchmarks.gpu_report benchmarks/results/gpu-h200.json docs/gpu-results.md
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu_profile import METRICS
from benchmarks.gpu_results import Data, load_results
from benchmarks.gpu_targets import floor_ratio, judge_ratios, judge_rows, median_of, ratio_of

LAYER_PEERS: Final = {
    "hf": "HF eager",
    "flash": "flash attention",
    "cudnn": "cuDNN attention",
    "full": "full attention",
}
MODEL_RUNS: Final = {
    "eager": "HF eager",
    "onnxruntime-bodies": "bodies",
    "onnxruntime-native": "our kernels",
    "onnxruntime-device": "on the device",
    "onnxruntime-bound": "bound session",
    "tensorrt": "TensorRT engine",
    "tensorrt-rtx": "TensorRT-RTX engine",
}
NOTES: Final = (
    "Layers: the operators only, on ready projections: 8 heads x 64, chunks of 64 tokens that see the chunk "
    "before, causal, batch 1. Medians of CUDA-event times; all contenders of a row took turns in one "
    "process, and the GPU was kept busy while the host enqueued, so that a slow host does not count. "
    "Graph: the same launches replayed as one CUDA graph. x: that contender's time over ours.",
    "HF eager: transformers' layer, unpatched, inference mode. Flash attention: torch's fused causal SDPA "
    "over all tokens (float32: its memory-efficient kernel). cuDNN attention: the same through cuDNN, which "
    "has none in float32. Full attention: causal, all logits in memory.",
    "Floor: the sum over our kernels of the time their scarcest resource needs at the card's peak "
    "(docs/gpu-performance.md); memory and tensor cores at the rates that this session measured, a copy on "
    "the device and a float16 product of 8192 x 8192 x 8192. MB: extra memory of one run in torch's "
    "allocator.",
    "Difference: the largest of the output; float32 from transformers in its buckets, else from our "
    "float32 kernels on the same numbers.",
    "Steps: one new token of every row of the batch against its cache in place, at the crime shape (2 heads "
    "x 64, chunks of 64, 1 hash); of one layer in a graph of six. Whole: the operator over all of one row's "
    "tokens.",
    "Models: random weights, batch 1, logits of all positions; wall-clock times in turns. Bodies and our "
    "kernels: `load(...).run` in ONNX Runtime with ids on the host and logits back on it; on the device: "
    "with logits left there; bound session: ONNX Runtime's own session on bound inputs and outputs, which is "
    "what the device takes. x: HF eager's time over that one's. Difference: of our kernels from the file's "
    "bodies, hash flips included.",
    "Kernels of a session: of one run of the bound session, by torch's profiler; the fifteen slowest.",
)
SESSION_KERNELS: Final = 15


def render(data: Data, source: str = "") -> str:
    """The page, markdown; `source` is the file that `data` was read from."""
    lines = [*_render_head(data, source), *_section("Times to reach", judge_rows(data))]
    lines += [*_section("Ratios to reach", judge_ratios(data)), "", "## Checks", ""]
    lines += [f"- {line}" for line in data.get("checks", ["not run together with this"])]
    lines += _section("One layer", [_layer_row(entry) for entry in data.get("layers", ())])
    for entry in data.get("kernels", ()):
        lines += _section(f"Kernels: {_layer_name(entry)}", _kernel_rows(entry))
    if data.get("profiles"):
        lines += _section("What the profiler says", [_profile_row(entry) for entry in data["profiles"]])
    if data.get("steps"):
        lines += _section("One step", [_step_row(entry) for entry in data["steps"]])
    lines += _section("Whole models", [_model_row(entry) for entry in data.get("models", ())])
    for entry in data.get("session_kernels", ()):
        name = f"{entry['model']}, {entry['dtype']}, {entry['tokens']:,} tokens"
        lines += _section(f"Kernels of a session: {name}", _session_rows(entry))
    missing = [line for part in data.get("missing", {}).values() for line in part]
    if missing:
        lines += ["", "## Not measured", "", *(f"- {line}" for line in missing)]
    return "\n".join([*lines, "", "## How", "", *(f"- {note}" for note in NOTES), ""])


def _render_head(data: Data, source: str) -> list[str]:
    machine = data["machine"]
    host = ", ".join(
        str(machine[key]) + " cores" * (key == "cores") for key in ("cpu", "cores") if key in machine
    )
    described = [
        f"{machine['gpu']} (compute capability {machine['compute_capability']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB), driver {machine['driver']}, CUDA {machine['cuda']}; "
        f"{f'{host}; ' if host else ''}{machine['date']}."
    ]
    if "code" in data:
        described.append(f"Code: {data['code']}.")
    if "library" in data:
        described.append(f"Library: {data['library']}.")
    described.append(", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".")
    if "ceilings" in data:
        copy, product = data["ceilings"]["copy_bytes"], data["ceilings"]["product_flops"]
        described.append(
            f"Measured ceilings: device copy {copy / 1e12:.2f} TB/s (read and written), float16 product "
            f"{product / 1e12:.0f} TFLOP/s."
        )
    made = f"Made from `{source}`" if source else "Made"
    made += " by `python -m benchmarks.gpu_report`; `make gpu-check` measures anew."
    return ["# GPU results", "", *described, "", made]


def _section(title: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    return ["", f"## {title}", "", *_table(rows)]


def _layer_name(entry: Data) -> str:
    hashes = f", {entry['num_hashes']} hash{'es' * (entry['num_hashes'] > 1)}" * (entry["kind"] == "lsh")
    return f"{entry['kind']}, {entry['tokens']:,} tokens{hashes}, {entry['dtype']}"


def _layer_row(entry: Data) -> dict[str, str]:
    floor = floor_ratio(entry)
    row = {
        "layer": entry["kind"],
        "dtype": entry["dtype"],
        "tokens": f"{entry['tokens']:,}",
        "hashes": str(entry["num_hashes"] or "-"),
        "ours us": _microseconds(median_of(entry, "ours")),
        "graph us": _microseconds(median_of(entry, "ours: graph")),
        "hash us": _microseconds(median_of(entry, "ours: hash")),
        "attention us": _microseconds(median_of(entry, "ours: attention")),
        "x floor": "-" if floor is None else f"{floor:.2f}",
    }
    for peer, words in LAYER_PEERS.items():
        row[f"{words} us"] = entry["not_timed"].get(peer) or _microseconds(median_of(entry, peer))
        ratio = ratio_of(entry, peer)
        row[f"x {words}"] = "-" if ratio is None else f"{ratio:.2f}"
    for name, words in {"ours": "ours", **LAYER_PEERS}.items():
        row[f"{words} MB"] = _megabytes(entry["extra_bytes"].get(name))
    row["difference"] = "-" if entry["difference"] is None else f"{entry['difference']:.0e}"
    return row


def _kernel_rows(entry: Data) -> list[dict[str, str]]:
    """Kernels as the profiler names them; the floor's steps below, as their names are its own."""
    rows = [
        {"kernel": name, "us": _microseconds(seconds)}
        for name, seconds in sorted(entry["seconds"].items(), key=lambda item: -item[1])
    ]
    floor = entry["floor_seconds"] or {}
    return rows + [
        {"kernel": f"floor of {name}", "us": _microseconds(seconds)} for name, seconds in floor.items()
    ]


def _step_row(entry: Data) -> dict[str, str]:
    seconds = median_of(entry, "graph")
    return {
        "layer": entry["kind"],
        "dtype": entry["dtype"],
        "tokens": f"{entry['tokens']:,}",
        "batch": str(entry["batch"]),
        "step us": _microseconds(seconds),
        "rows/s": "-" if seconds is None else f"{entry['batch'] / seconds:,.0f}",
        "whole, one row us": _microseconds(median_of(entry, "whole, one row")),
        "difference": f"{entry['difference']:.0e}",
    }


def _profile_row(entry: Data) -> dict[str, str]:
    metrics: Mapping[str, str] = entry["metrics"]
    row = {"layer": entry["layer"], "kernel": f"`{entry['kernel']}`"}
    return row | {name: metrics.get(name, "-").removesuffix(" register/thread") for name in METRICS}


def _session_rows(entry: Data) -> list[dict[str, str]]:
    kernels = entry["kernels"]
    total = entry["total_seconds"]
    rows = [
        {
            "kernel": f"`{kernel['name']}`",
            "calls": f"{kernel['calls']:g}",
            "us": _microseconds(kernel["seconds"]),
            "share": f"{kernel['seconds'] / total:.1%}",
        }
        for kernel in kernels[:SESSION_KERNELS]
    ]
    return [*rows, {"kernel": "**all**", "calls": "", "us": _microseconds(total), "share": ""}]


def _model_row(entry: Data) -> dict[str, str]:
    row = {"model": entry["model"], "dtype": entry["dtype"], "tokens": f"{entry['tokens']:,}"}
    eager = median_of(entry, "eager")
    for name, words in MODEL_RUNS.items():
        seconds = median_of(entry, name)
        row[f"{words} ms"] = entry["not_timed"].get(name) or _milliseconds(seconds)
        if name != "eager":
            row[f"x {words}"] = "-" if eager is None or seconds is None else f"{eager / seconds:.2f}"
    row["difference"] = "-" if entry["difference"] is None else f"{entry['difference']:.0e}"
    return row


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Without the columns that no row has anything in."""
    if not rows:
        return ["Nothing was measured."]
    columns = [column for column in rows[0] if any(row[column] != "-" for row in rows)]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:,.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.2f}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.write_text(render(load_results(source), source.as_posix()), encoding="utf-8")
