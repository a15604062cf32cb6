"""Prompts and steps are timed as they are told, on made-up contenders and on a small model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.measure import decoding, timing
from reformer_export.measure.contenders import random_ids
from reformer_export.measure.decoders import Continuation, DecodeSetup
from reformer_export.measure.decoding import (
    DecodeMeasurement,
    DecodeResult,
    Stepper,
    count_room,
    list_jobs,
    run_decode_benchmark,
)
from reformer_export.measure.decoding_memory import OF_DECODING, DecodeMemory, measure_decoding
from reformer_export.measure.memory import PassFailedError
from reformer_export.measure.run import BenchmarkOptions
from tests.measure.decode_model import all_setups, export_decoder
from tests.report.results import MACHINE


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory) -> list[DecodeSetup]:
    return all_setups(*export_decoder(tmp_path_factory.mktemp("decoding")))


class Recorder(Continuation):
    """Writes down what it is asked for."""

    def __init__(self, steps_of_a_turn: int) -> None:
        self.steps_of_a_turn = steps_of_a_turn
        self.calls: list[Any] = []

    def start(self, ids: np.ndarray) -> np.ndarray:
        self.calls.append(("start", ids.tolist()))
        return np.zeros((len(ids), 1), np.float32)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.calls.append(tokens.tolist())
        return np.zeros((len(tokens), 1), np.float32)


def test_a_turn_takes_the_next_tokens_and_begins_again_where_the_room_is_used_up() -> None:
    tokens = np.arange(20).reshape(2, 10)  # 5 of prompt and room for two turns of two
    recorder = Recorder(2)
    stepper = Stepper(recorder, tokens, 5)
    stepper.read_prompt()
    for _ in range(3):
        stepper.take_turn()
    prompt = ("start", tokens[:, :5].tolist())
    first = [[5, 15], [6, 16]]
    assert recorder.calls == [prompt, *first, [7, 17], [8, 18], prompt, *first]
    assert len(stepper.seconds) == 6
    assert min(stepper.seconds) >= 0


@pytest.mark.parametrize(
    ("max_length", "repeat", "room"), [(64, 20, 16), (2048, 20, 176), (2048, 4, 48), (12, 20, 8)]
)
def test_the_room_is_that_of_all_turns_but_a_quarter_of_a_short_model(
    max_length: int, repeat: int, room: int
) -> None:
    assert count_room(max_length, BenchmarkOptions((1,), repeat=repeat)) == room


def test_eagers_cache_is_measured_alone_only(setups: list[DecodeSetup]) -> None:
    jobs = [(each.name, *shape) for each, *shape in list_jobs(setups, BenchmarkOptions((9, 20), (1, 4)))]
    assert [job for job in jobs if job[0] == "eager-cache"] == [("eager-cache", 1, 9), ("eager-cache", 1, 20)]
    others = ("artifact", "artifact-passes", "eager-passes")
    assert [job for job in jobs if job[0] != "eager-cache"] == [
        (name, *shape) for name in others for shape in itertools.product((1, 4), (9, 20))
    ]


@pytest.fixture(scope="module")
def result(setups: list[DecodeSetup]) -> DecodeResult:
    options = BenchmarkOptions((9, 40), (1, 2), repeat=4, warm_up=1, memory=False)
    done: list[int] = []
    found = run_decode_benchmark(setups, options, 64, ("a note",), done.append)
    assert sum(done) == len(list_jobs(setups, options)) + 4
    return found


def test_every_shape_has_every_contender_but_eagers_cache_in_batches(result: DecodeResult) -> None:
    found = [(m.batch, m.length, m.name) for m in result.measurements]
    names = ("artifact", "artifact-passes", "eager-passes", "eager-cache")
    shapes = itertools.product((1, 2), (9, 40))
    assert found == [(*s, name) for s in shapes for name in names if s[0] == 1 or name != "eager-cache"]
    loads = ("times are unsteady", "the machine was busy")
    notes = [note for note in result.notes if not note.startswith(loads)]
    assert notes[0] == "a note"
    assert notes[1].startswith("eager-cache: left out of batches, where it is wrong: transformers' cache")
    assert len(notes) == 2


def test_each_was_timed_for_as_many_turns(result: DecodeResult) -> None:
    for m in result.measurements:
        assert m.steps_of_a_turn == (8 if m.name in ("artifact", "eager-cache") else 1)
        assert len(m.step_seconds) == 4 * m.steps_of_a_turn
        assert 1 <= len(m.prompt_seconds) <= 3
        assert min(*m.step_seconds, *m.prompt_seconds) > 0
        assert m.tokens_per_second == pytest.approx(m.batch / np.median(m.step_seconds))
        assert m.memory is None


def test_a_ratio_is_over_the_artifacts_steps_in_the_same_turn() -> None:
    def measured(name: Any, steps: tuple[float, ...], turn: int) -> DecodeMeasurement:
        return DecodeMeasurement(1, 9, name, (1.0,), steps, turn, None)

    ours = measured("artifact", (1.0, 1.0, 9.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0), 3)
    eager = measured("eager-passes", (10.0, 40.0, 40.0), 1)
    options = BenchmarkOptions((9,), repeat=3)
    result = DecodeResult((), options, (ours, eager), MACHINE, (None, None))
    assert ours.turn_seconds == (1.0, 2.0, 4.0)
    assert result.ratio(ours) == 1.0
    assert result.ratio(eager) == 10.0  # of 10, 20 and 10
    assert result.unsteady == ()
    busy = dataclasses.replace(eager, step_seconds=(10.0, 10.0, 40.0))
    assert dataclasses.replace(result, measurements=(ours, busy)).unsteady == (busy,)


def test_json_has_every_number(result: DecodeResult) -> None:
    values = json.loads(json.dumps(result.to_dict()))
    assert set(values) == {
        "machine", "load_average", "contenders", "repeat", "warm_up", "memory_measured", "notes", "results",
    }  # fmt: skip
    assert values["load_average"]["before"] == result.load[0]
    for m, row in zip(result.measurements, values["results"], strict=True):
        assert (row["batch"], row["length"], row["contender"]) == (m.batch, m.length, m.name)
        assert row["step_seconds"] == list(m.step_seconds)
        assert row["prompt_ms"] == pytest.approx(1e3 * np.median(m.prompt_seconds))
        assert row["step_ms"]["p50"] == pytest.approx(1e3 * np.median(m.step_seconds))
        assert row["times_artifact"] == result.ratio(m)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_in_a_process_of_its_own(setups: list[DecodeSetup]) -> None:
    for setup in setups:
        found = measure_decoding(setup, 1, 40)
        assert found is not None
        assert found.measured == OF_DECODING
        assert found.peak_bytes >= found.held_bytes > 10**7
        assert found.growth_bytes == found.held_bytes - found.loaded_bytes
        assert (found.cache_bytes > 0) == (setup.name in ("artifact", "eager-cache"))


def fail(name: str) -> Any:
    """`measure_decoding` where memory does not suffice for `name` at 40 tokens."""

    def measure(each: DecodeSetup, _batch: int, length: int) -> DecodeMemory | None:
        if each.name == name and length == 40:
            raise PassFailedError("the system ended it")
        return None

    return mock.patch.object(decoding, "measure_decoding", measure)


def test_who_cannot_do_a_shape_is_left_out_of_it_but_the_artifact_has_to(setups: list[DecodeSetup]) -> None:
    options = BenchmarkOptions((9, 40), repeat=1, warm_up=0)
    with fail("eager-passes"):
        result = run_decode_benchmark(setups, options, 64)
    assert [m.length for m in result.measurements if m.name == "eager-passes"] == [9]
    assert "eager-passes at batch 1, length 40: left out, the system ended it." in result.notes
    with fail("artifact"), pytest.raises(RuntimeUnavailableError, match="artifact at batch 1, length 40"):
        run_decode_benchmark(setups, options, 64)


def test_a_shape_that_takes_long_has_one_prompt_and_three_turns(
    setups: list[DecodeSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BenchmarkOptions((9,), repeat=20, warm_up=0, memory=False, max_seconds=0.0)
    result = run_decode_benchmark(setups[:2], options, 64)
    assert [(len(m.prompt_seconds), len(m.turn_seconds)) for m in result.measurements] == [(1, 3)] * 2


def test_tokens_are_the_same_for_every_contender() -> None:
    assert np.array_equal(random_ids(50, 2, 30), random_ids(50, 2, 30))
