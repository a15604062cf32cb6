"""What the GPU code was to reach, each against what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.gpu_results import Data

TARGET_CARDS: Final = ("H100", "H200")
TARGET_DTYPE: Final = "float16"
OURS: Final = ("onnxruntime-native", "onnxruntime-device", "onnxruntime-bound", "tensorrt", "tensorrt-rtx")
"""Contenders among whole models that run our kernels."""


@dataclass(frozen=True)
class Row:
    """A time to reach, in seconds: of an LSH layer (`num_hashes`), or of a whole `model`."""

    words: str
    seconds: float
    tokens: int
    contender: str
    dtype: str = "float16"
    num_hashes: int | None = None
    model: str | None = None

    def find(self, data: Data) -> float | None:
        """The median that `data` has for it."""
        entries = data.get("models" if self.model else "layers", ())
        for entry in entries:
            which = entry["model"] == self.model if self.model else self._is_layer(entry)
            if which and (entry["tokens"], entry["dtype"]) == (self.tokens, self.dtype):
                return median_of(entry, self.contender)
        return None

    def _is_layer(self, entry: Data) -> bool:
        return bool(entry["kind"] == "lsh" and entry["num_hashes"] == self.num_hashes)


GRAPH: Final = "ours: graph"
ROWS: Final = (
    Row("LSH layer, float16, 16,384 tokens, 4 hashes, graph", 150e-6, 16384, GRAPH, num_hashes=4),
    Row("the same, 1 hash", 60e-6, 16384, GRAPH, num_hashes=1),
    Row("the same, 1,024 tokens, 1 hash", 20e-6, 1024, GRAPH, num_hashes=1),
    Row("float32, 16,384 tokens, 4 hashes", 400e-6, 16384, GRAPH, "float32", num_hashes=4),
    Row(
        "enwik8 shape, float16, 16,384 tokens: bound session",
        11.5e-3,
        16384,
        "onnxruntime-bound",
        model="enwik8",
    ),
    Row(
        "the same, `run` with ids and logits on the host", 13e-3, 16384, "onnxruntime-native", model="enwik8"
    ),
    Row(
        "enwik8 shape, float32 exact, 16,384 tokens: bound session",
        32e-3,
        16384,
        "onnxruntime-bound",
        "float32",
        model="enwik8",
    ),
    Row(
        "crime shape, float16, 16,384 tokens: `run` with ids and logits on the host",
        2e-3,
        16384,
        "onnxruntime-native",
        model="crime",
    ),
)


def judge_rows(data: Data) -> list[dict[str, str]]:
    """The times that version 0.1.0 is to reach."""
    rows = []
    for row in ROWS:
        seconds = row.find(data)
        verdict = (
            "not measured" if seconds is None else "reached" if seconds <= row.seconds else "not reached"
        )
        rows.append(
            {
                "time": row.words,
                "measured": "-" if seconds is None else format_seconds(seconds),
                "to reach": format_seconds(row.seconds),
                "verdict": verdict,
            }
        )
    return rows


def format_seconds(seconds: float) -> str:
    """`233 us`, `17.3 ms`: three digits."""
    return f"{1e6 * seconds:.0f} us" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def judge_ratios(data: Data) -> list[dict[str, str]]:
    """The four ratios that the kernels are to reach."""
    layers = {
        (entry["tokens"], entry["num_hashes"]): entry
        for entry in data.get("layers", ())
        if entry["dtype"] == TARGET_DTYPE and entry["kind"] == "lsh"
    }
    target = layers.get((16384, 4))
    rows = [
        _judge(
            "LSH layer, 16,384 tokens, 4 hashes: HF eager's time / ours, at least 10",
            [("", ratio_of(target, "hf"))],
            lambda value: value >= 10,
        ),
        _judge(
            "the same layer: our time / the floor, at most 2.5",
            [("", floor_ratio(target))],
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
                (f"{entry['model']} at {entry['tokens']:,}", model_ratio(entry))
                for entry in data.get("models", ())
                if entry["dtype"] == TARGET_DTYPE
            ],
            lambda value: value >= 5,
        ),
    ]
    if not any(card in data["machine"]["gpu"] for card in TARGET_CARDS):
        for row in rows:
            row["verdict"] += f" (asked of an {TARGET_CARDS[0]})"
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
    return {f"ratio ({TARGET_DTYPE})": target, "measured": words or "not measured", "verdict": verdict}


def _flash_ratios(layers: Mapping[tuple[int, int], Data]) -> list[tuple[str, float | None]]:
    wanted = {(8192, 1), (16384, 4)}
    longer = {
        (tokens, hashes)
        for tokens, hashes in layers
        if (hashes == 1 and tokens >= 8192) or (hashes == 4 and tokens >= 16384)
    }
    return [
        (
            f"at {tokens:,}, {hashes} hash{'es' * (hashes > 1)}",
            ratio_of(layers.get((tokens, hashes)), "flash"),
        )
        for tokens, hashes in sorted(wanted | longer)
    ]


def median_of(entry: Data | None, name: str) -> float | None:
    """Seconds of a contender of the entry; None where it was not timed."""
    seconds = entry["seconds"].get(name) if entry else None
    return statistics.median(seconds) if seconds else None


def ratio_of(entry: Data | None, peer: str) -> float | None:
    """The peer's median over ours."""
    ours, theirs = median_of(entry, "ours"), median_of(entry, peer)
    return None if ours is None or theirs is None else theirs / ours


def floor_ratio(entry: Data | None) -> float | None:
    """Ours over the layer's floor."""
    ours = median_of(entry, "ours")
    floor: Any = entry["floor_seconds"] if entry else None
    return None if ours is None or not floor else ours / sum(floor.values())


def model_ratio(entry: Data) -> float | None:
    """Eager's median over the best of ours with logits on the host."""
    ours = [
        median
        for name in OURS
        if name not in ("onnxruntime-device", "onnxruntime-bound")
        and (median := median_of(entry, name)) is not None
    ]
    eager = median_of(entry, "eager")
    return None if eager is None or not ours else eager / min(ours)
