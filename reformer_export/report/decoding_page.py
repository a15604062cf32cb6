"""A benchmark of decoding as a page: how fast tokens come, over the context that is behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.report.curves import curves_by_batch, tell_longest
from reformer_export.report.figures import Drawing, draw, paint_series
from reformer_export.report.page import Page, Section, Verdict
from reformer_export.report.ranges import describe_range, write_rate, write_ratio
from reformer_export.report.tables import DECODERS, Table, decode_times_table

if TYPE_CHECKING:
    from reformer_export.measure.decoding import DecodeMeasurement, DecodeResult

CONTENDERS: Final = {
    "artifact": "this artifact's decode.onnx: a step for each token, on what earlier ones left when they "
    "were new; its logits differ a little from a whole pass's",
    "artifact-passes": "this artifact's model.onnx: a whole pass for each token",
    "eager-passes": "unpatched transformers without a cache: a whole pass for each token",
    "eager-cache": "unpatched transformers with its own cache, which gives other numbers than its whole "
    "pass, and wrong ones in a batch",
}
"""What each is, in words."""


@dataclass(frozen=True)
class DecodeReport:
    """The measurements of how the artifact in `folder` decodes; `runtime` says in words what ran it."""

    folder: Path
    manifest: Manifest
    runtime: str
    result: DecodeResult

    def table(self) -> Table:
        """Every measurement."""
        return decode_times_table(f"{self.folder} ({self.runtime}, {self.manifest.precision})", self.result)

    def verdict(self) -> Verdict:
        """How fast, and against whom."""
        return _verdict(self.result)

    def describe_passes(self) -> str:
        """How the times were taken."""
        steps = sorted({len(row.step_seconds) for row in self.result.measurements if row.steps_of_a_turn > 1})
        count = describe_range(steps, str)
        return (
            f"a token of every sequence of the batch, the median over {count} steps on a cache or as many "
            "whole passes as the table says, in turns; prompt: until the first token's logits, the median of "
            "up to 3; a ratio is the median over the turns"
        )

    def describe_contenders(self) -> list[str]:
        """What each of those measured is."""
        return [
            f"{DECODERS[each.name]} ({each.setup.device}, {each.setup.dtype}): {CONTENDERS[each.name]}"
            for each in self.result.setups
        ]

    def describe_machine(self) -> str:
        """The machine and how busy it was."""
        before, after = self.result.load
        load = (
            ""
            if before is None or after is None
            else f"; load average {before:.1f} before, {after:.1f} after"
        )
        return f"{self.result.machine.describe()}{load}"

    def page(self) -> Page:
        """For people who decide."""
        return page_from_decoding(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; latencies in milliseconds, memory in bytes."""
        return {
            "artifact": str(self.folder),
            "model_sha256": self.manifest.files[MODEL_NAME],
            "decode_sha256": self.manifest.files[DECODE_NAME],
            "dtype": self.manifest.dtype,
            "precision": self.manifest.precision,
            "runtime": self.runtime,
            **self.result.to_dict(),
        }


def page_from_decoding(report: DecodeReport) -> Page:
    """A page on a benchmark of decoding."""
    result = report.result
    speed = _draw_batches(
        result, "speed", "Tokens a second", "tokens/s", lambda row: row.tokens_per_second, "tokens/s"
    )
    prompt = _draw_batches(
        result, "prompt", "Time to the first token", "time (ms)", lambda row: row.prompt.p50, "ms"
    )
    about = [
        f"Machine: {report.describe_machine()}.",
        f"Runtime: {report.runtime}. Latency: {report.describe_passes()}.",
        *(f"{words}." for words in report.describe_contenders()),
        *(f"Note: {note}" for note in result.notes),
    ]
    sections = [
        Section("speed", "Tokens a second", drawings=speed),
        Section("prompt", "Time to the first token", drawings=prompt),
        *([_memory_section(result)] if result.memory_measured else []),
        Section("table", "Every measurement", tables=[report.table()]),
        Section("about", "How it was measured", about, manifest=report.manifest),
    ]
    return Page(f"How fast does {report.folder} write?", sections, report.verdict())


def _verdict(result: DecodeResult) -> Verdict:
    ours = [row for row in result.measurements if row.name == "artifact"]
    lengths = sorted({row.length for row in ours})
    alone = min(row.batch for row in ours)
    (longest,) = (row for row in ours if (row.batch, row.length) == (alone, lengths[-1]))
    where = describe_range(lengths, lambda length: f"{length:,}")
    many = "" if alone == 1 else f" for {alone} sequences at once"
    headline = (
        f"{write_rate(longest.tokens_per_second)} tokens a second at {lengths[-1]:,} tokens of context{many}"
    )
    told, good = [], None
    for name, words in (
        ("eager-cache", "eager with its cache, which gives other numbers"),
        ("eager-passes", "eager without"),
        ("artifact-passes", "a whole pass for each token"),
    ):
        ratios = [result.ratio(row) for row in result.measurements if row.name == name]
        if ratios:
            told.append(f"{describe_range(ratios, write_ratio)} times as fast as {words}")
            good = good is not False and min(ratios) >= 1
    doubt = " The times are unsteady: see the notes." if result.unsteady else ""
    against = f": {'; '.join(told)}." if told else ". Nothing was measured beside it."
    return Verdict(good, headline, f"At {where} tokens of context{against}{doubt}")


def _draw_batches(
    result: DecodeResult,
    name: str,
    title: str,
    axis: str,
    value: Callable[[DecodeMeasurement], float | None],
    unit: str,
) -> list[Drawing]:
    """For each batch size, `value` over the context, told in `unit`."""
    drawings = []
    for batch, series in curves_by_batch(result.measurements, value, lambda row: DECODERS[row.name]).items():
        if series:
            sequences = "one sequence" if batch == 1 else f"{batch} sequences at once"
            told = tell_longest(series, lambda value: f"{write_rate(value)} {unit}")
            words = (f"{name}-{batch}", f"{title}, {sequences}", told)
            drawings.append(draw(*words, paint_series, "context (tokens)", axis, series, labels_above=True))
    return drawings


def _memory_section(result: DecodeResult) -> Section:
    def megabytes(row: DecodeMeasurement) -> float | None:
        return None if row.memory is None else max(row.memory.growth_bytes, 0) / 1e6

    drawings = _draw_batches(result, "memory", "Held beyond the loaded model", "memory (MB)", megabytes, "MB")
    return Section("memory", "Memory", [f"Measured: {result.memory_measured}."], drawings)
