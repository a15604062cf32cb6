"""What the benchmark of decoding says, from made-up times: none of them was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from benchmarks.bench_decode import describe, list_notes, list_rows, list_series, list_summary
from benchmarks.decode_targets import find_step, find_targets
from benchmarks.decode_timing import CONTEXTS, THREADS, Growth, Measured, Plan, Point, Timing, draw_tokens
from benchmarks.models import BenchmarkModel
from benchmarks.report import describe_machine
from reformer_export.measure.decoding_memory import DecodeMemory
from tests.runtimes.artifacts import write_artifact

PEERS = ("artifact-passes", "eager-passes", "eager-cache")


def make_measured(model: str, milliseconds: float, batches: tuple[int, ...] = (1, 16)) -> Measured:
    """Steps of so many ms at the first context and an eighth more at each other, half as long with two
    threads; of 16 sequences three times as long; passes a hundred times. The best is half the median."""

    def timing(factor: float, turn: int) -> Timing:
        step = factor * milliseconds / 1e3
        return Timing(100 * step, (step / 2, *(step,) * (3 * turn - 1)), turn)

    timings: dict[Point, Timing] = {}
    for index, length in enumerate(CONTEXTS[model]):
        grown = 1 + index / 8
        for threads in THREADS:
            for batch in batches:
                factor = grown * (3 if batch == 16 else 1) / threads
                timings[Point("artifact", threads, batch, length)] = timing(factor, 8)
        timings |= {Point(name, 2, 1, length): timing(100.0, 1) for name in PEERS}
    over = {point: timings[point].median / milliseconds * 1e3 for point in timings}
    memory = DecodeMemory(10**6, 3 * 10**6, 9 * 10**6, 10**6, "bytes")
    seconds = (0.002,) * 100 + (0.001,) * 9850 + (0.003,) * 50
    growth = {1: Growth(seconds, (5 * 10**6, 9 * 10**6), (10**6, 4 * 10**6))}
    memories = {("artifact", length): memory for length in CONTEXTS[model]}
    return Measured(model, timings, over, memories, growth if model == "crime" else {})


def test_targets_by_medians_and_by_the_best() -> None:
    measured = {"kjv-bytes": make_measured("kjv-bytes", 2.0), "crime": make_measured("crime", 2.0)}
    found = {target.what: target for target in find_targets(measured)}
    shipped = found["shipped model, 1,900 tokens, x of 19 tokens/s"]  # 1.25 ms
    assert (shipped.value, shipped.best) == pytest.approx((800 / 19, 1600 / 19))
    assert shipped.reached
    step = found["crime, 65,536 tokens, ms a step"]
    assert (step.value, step.best) == pytest.approx((1.25, 0.625))
    many = found["crime, 16,384 tokens, 16 at once, x tokens/s of one"]
    assert (many.value, many.reached) == (pytest.approx(16 / 3), True)
    grown = found["step 10,000 over step 100, 1 thread"]
    assert (grown.value, grown.reached) == (pytest.approx(1.5), True)
    assert len(found) == 8
    (missed,) = find_targets({"kjv-bytes": make_measured("kjv-bytes", 4.0)})
    assert not missed.reached
    assert str(missed).endswith("21.1 (by the best steps 42.1), wanted at least 40: MISSED.")


def test_a_run_of_one_sequence_has_no_targets_of_16() -> None:
    found = find_targets({"crime": make_measured("crime", 2.0, (1,))})
    assert not [target for target in found if "16 at once" in target.what]


def test_steps_around_a_mark() -> None:
    growth = make_measured("crime", 1.0).growth[1]
    assert find_step(growth, 100) == (0.002, 0.001)  # of steps 50 to 150
    assert find_step(growth, 10000) == (0.003, 0.001)


def test_the_files_have_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    measured = make_measured("crime", 2.0)
    rows, summary = list_rows(measured), list_summary(measured)
    assert len(rows) == len(measured.timings) == 3 * (4 + 3)
    assert summary[0] == {
        "model, context": "crime, 1,024",
        "steps": "1,000",
        "16 at once": "5,333",
        "whole passes": "5",
        "eager with its cache (other numbers)": "5",
        "eager, whole passes": "5",
    }
    series = list_series(measured)
    assert series["steps"] == [(1024, 1000.0), (16384, pytest.approx(8000 / 9)), (65536, 800.0)]
    assert set(series) == {"steps", "steps, 16 at once", *list(summary[0])[3:]}
    notes = list_notes([measured], find_targets({"crime": measured}), describe_machine(), Plan())
    assert any("from step 100 on memory grew by 4.0 MB, the caches by 3.0 MB" in note for note in notes)
    report.write_results("decode", "Decoding", rows, {"results": [describe(measured)]}, notes, summary)
    report.plot_tokens_per_second("decode", {"crime": series})
    text = (tmp_path / "decode.md").read_text(encoding="utf-8")
    assert text.index("| crime, 1,024 | 1,000 |") < text.index("| crime | 1,024 | steps | 1 | 1 |")
    values = json.loads((tmp_path / "decode.json").read_text(encoding="utf-8"))
    assert len(values["results"][0]["timings"]) == len(rows)
    assert (tmp_path / "decode.png").stat().st_size > 10**4


def test_the_first_of_many_sequences_is_the_one_alone(tmp_path: Path) -> None:
    model = BenchmarkModel("tiny", tmp_path, write_artifact(tmp_path / "out"))
    alone, many = draw_tokens(model, 1, 20, 2), draw_tokens(model, 16, 20, 2)
    assert (alone.shape, many.shape) == ((1, 52), (16, 52))
    assert np.array_equal(alone[0], many[0])
    assert len(np.unique(many, axis=0)) == 16
    assert draw_tokens(model, 1, 60, 2).shape == (1, 64)  # as many as the model takes
