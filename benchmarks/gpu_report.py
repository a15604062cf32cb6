"""docs/gpu-results.md from the JSON of `bench_gpu` alone: every number on the page is one of the JSON's.

    python -m benchmarks.gpu_report benchmarks/results/gpu.json docs/gpu-results.md

The JSON: `machine`; `library`; `checks`, lines about the tests of the same run; `missing`, what could not be
measured; `layers`, one entry a layer with `kind`, `tokens`, `num_hashes`, `dtype`, `seconds` (by contender, a
list of turns), `not_timed` (by contender, why), `extra_bytes` (by contender), `floor_seconds` (by kernel, or
null), `difference`; `kernels`, the same with `seconds` by kernel; `models`, with `model`, `tokens`, `dtype`,
`seconds`, `not_timed`, `extra_bytes`, `difference`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Data = Mapping[str, Any]

TARGET_CARD: Final = "H100"
TARGET_DTYPE: Final = "float16"
LAYER_PEERS: Final = {"hf": "HF eager", "flash": "flash attention", "full": "full attention"}
MODEL_RUNS: Final = {
    "eager": "HF eager",
    "onnxruntime-bodies": "ONNX Runtime, bodies",
    "onnxruntime-native": "ONNX Runtime, our kernels",
    "tensorrt": "TensorRT engine",
    "tensorrt-rtx": "TensorRT-RTX engine",
}
NOTES: Final = (
    "Layers: the operators only, on ready projections: 8 heads x 64, chunks of 64 tokens that see the chunk "
    "before, causal, batch 1. Medians of CUDA-event times; all contenders of a row took turns in one "
    "process, and the GPU was kept busy while the host enqueued, so that a slow host does not count. "
    "x: that contender's time over ours.",
    "HF eager: transformers' layer, unpatched, inference mode. Flash attention: torch's fused causal SDPA "
    "over all tokens (float32: its memory-efficient kernel). Full attention: causal, all logits in memory.",
    "Floor: the sum over our kernels of the time their scarcest resource needs at the card's peak "
    "(docs/gpu-performance.md). MB: extra memory of one run in torch's allocator.",
    "Difference: the largest of the output; float32 from transformers in its buckets, else from our "
    "float32 kernels on the same numbers.",
    "Models: random weights, batch 1, logits of all positions; wall-clock times with ids on the host and "
    "logits back on it, in turns. Their difference is that of our kernels from the file's bodies, hash flips "
    "included.",
)


def load_results(path: Path) -> Data:
    data: Data = json.loads(path.read_text(encoding="utf-8"))
    return data


def render(data: Data) -> str:
    """The page, markdown."""
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# GPU results",
        "",
        f"{machine['gpu']} (compute capability {machine['compute_capability']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB), driver {machine['driver']}, CUDA {machine['cuda']}; "
        f"{machine['cpu']}, {machine['cores']} cores; {machine['date']}.",
        f"Library {data['library']}; {versions}.",
        "",
        "Written by `make gpu-check`.",
        "",
        "## What was to be reached",
        "",
        *_table(judge_targets(data)),
        "",
        "## Checks",
        "",
        *(f"- {line}" for line in data["checks"]),
        "",
        "## One layer",
        "",
        *_table([_layer_row(entry) for entry in data["layers"]]),
    ]
    for entry in data["kernels"]:
        lines += ["", f"## Kernels: {_layer_name(entry)}", "", *_table(_kernel_rows(entry))]
    lines += ["", "## Whole models", "", *_table([_model_row(entry) for entry in data["models"]])]
    if data["missing"]:
        lines += ["", "## Not measured", "", *(f"- {line}" for line in data["missing"])]
    return "\n".join([*lines, "", "## How", "", *(f"- {note}" for note in NOTES), ""])


def judge_targets(data: Data) -> list[dict[str, str]]:
    """The four lines that the kernels were to reach, each against what was measured."""
    layers = {
        (entry["tokens"], entry["num_hashes"]): entry
        for entry in data["layers"]
        if entry["dtype"] == TARGET_DTYPE and entry["kind"] == "lsh"
    }
    target = layers.get((16384, 4))
    rows = [
        _judge(
            "LSH layer, 16,384 tokens, 4 hashes: HF eager's time / ours, at least 10",
            [("", _ratio(target, "hf"))],
            lambda value: value >= 10,
        ),
        _judge(
            "the same layer: our time / the floor, at most 2.5",
            [("", _floor_ratio(target))],
            lambda value: value <= 2.5,
        ),
        _judge(
            "LSH layer: flash attention's time / ours, above 1 from 8,192 tokens at 1 hash and 16,384 at 4",
            _flash_ratios(layers),
            lambda value: value > 1,
        ),
        _judge(
            "whole model: HF eager's time / the best of ours, at least 5",
            [
                (f"{entry['model']} at {entry['tokens']:,}", _model_ratio(entry))
                for entry in data["models"]
                if entry["dtype"] == TARGET_DTYPE
            ],
            lambda value: value >= 5,
        ),
    ]
    if TARGET_CARD not in data["machine"]["gpu"]:
        for row in rows:
            row["verdict"] += f" (asked of an {TARGET_CARD})"
    return rows


def _judge(
    target: str, measured: Sequence[tuple[str, float | None]], holds: Callable[[float], bool]
) -> dict[str, str]:
    """One target; a measurement that is missing leaves it open unless another one has failed it."""
    words = ", ".join(
        f"{'not measured' if value is None else format(value, '.2f')} {where}".strip()
        for where, value in measured
    )
    known = [value for _, value in measured if value is not None]
    if not all(holds(value) for value in known):
        verdict = "not reached"
    elif not known or len(known) < len(measured):
        verdict = "not measured"
    else:
        verdict = "reached"
    return {f"target ({TARGET_DTYPE})": target, "measured": words or "not measured", "verdict": verdict}


def _flash_ratios(layers: Mapping[tuple[int, int], Data]) -> list[tuple[str, float | None]]:
    wanted = {(shortest, hashes) for shortest, hashes in ((8192, 1), (16384, 4))}
    longer = {
        (tokens, hashes)
        for tokens, hashes in layers
        if (hashes == 1 and tokens >= 8192) or (hashes == 4 and tokens >= 16384)
    }
    return [
        (f"at {tokens:,}, {hashes} hash{'es' * (hashes > 1)}", _ratio(layers.get((tokens, hashes)), "flash"))
        for tokens, hashes in sorted(wanted | longer)
    ]


def _median(entry: Data | None, name: str) -> float | None:
    seconds = entry["seconds"].get(name) if entry else None
    return statistics.median(seconds) if seconds else None


def _ratio(entry: Data | None, peer: str) -> float | None:
    """The peer's median over ours."""
    ours, theirs = _median(entry, "ours"), _median(entry, peer)
    return None if ours is None or theirs is None else theirs / ours


def _floor_ratio(entry: Data | None) -> float | None:
    ours = _median(entry, "ours")
    floor = entry["floor_seconds"] if entry else None
    return None if ours is None or not floor else ours / sum(floor.values())


def _model_ratio(entry: Data) -> float | None:
    ours = [
        median
        for name in MODEL_RUNS
        if name not in ("eager", "onnxruntime-bodies") and (median := _median(entry, name)) is not None
    ]
    eager = _median(entry, "eager")
    return None if eager is None or not ours else eager / min(ours)


def _layer_name(entry: Data) -> str:
    hashes = f", {entry['num_hashes']} hash{'es' * (entry['num_hashes'] > 1)}" * (entry["kind"] == "lsh")
    return f"{entry['kind']}, {entry['tokens']:,} tokens{hashes}, {entry['dtype']}"


def _layer_row(entry: Data) -> dict[str, str]:
    floor = _floor_ratio(entry)
    row = {
        "layer": entry["kind"],
        "dtype": entry["dtype"],
        "tokens": f"{entry['tokens']:,}",
        "hashes": str(entry["num_hashes"] or "-"),
        "ours us": _microseconds(_median(entry, "ours")),
        "hash us": _microseconds(_median(entry, "ours: hash")),
        "attention us": _microseconds(_median(entry, "ours: attention")),
        "x floor": "-" if floor is None else f"{floor:.2f}",
    }
    for peer, words in LAYER_PEERS.items():
        row[f"{words} us"] = entry["not_timed"].get(peer) or _microseconds(_median(entry, peer))
        ratio = _ratio(entry, peer)
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


def _model_row(entry: Data) -> dict[str, str]:
    row = {"model": entry["model"], "dtype": entry["dtype"], "tokens": f"{entry['tokens']:,}"}
    eager = _median(entry, "eager")
    for name, words in MODEL_RUNS.items():
        seconds = _median(entry, name)
        row[f"{words} ms"] = entry["not_timed"].get(name) or _milliseconds(seconds)
        if name != "eager":
            row[f"x {words}"] = "-" if eager is None or seconds is None else f"{eager / seconds:.2f}"
    row["difference"] = "-" if entry["difference"] is None else f"{entry['difference']:.0e}"
    return row


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return ["Nothing was measured."]
    columns = list(rows[0])
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
    target.write_text(render(load_results(source)), encoding="utf-8")
