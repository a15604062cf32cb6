"""Batches: which sequences run together, that company changes no answer, and that order is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import reformer_export
from reformer_export.artifact.signature import has_row_a_token
from reformer_export.batch import batching as batches
from reformer_export.batch.batching import (
    Batching,
    Totals,
    count_output_bytes,
    plan_batches,
    run_window,
    windows_from_lines,
)
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.sequences import InputLine, InputSequence
from reformer_export.cli.main import cli
from reformer_export.errors import InputError
from tests.hf_models import config_t, save_model
from tests.runtimes.artifacts import MAX_LENGTH, make_spec, next_token_table, write_artifact
from tests.test_lucidrains_spec import make_alone

SPEC = make_spec()
LENGTHS = st.lists(st.integers(1, MAX_LENGTH), max_size=60)
BATCHINGS = st.builds(
    Batching,
    rows=st.none() | st.integers(1, 9),
    tokens=st.none() | st.integers(1, 200),
    window=st.integers(1, 40),
    mixes_lengths=st.booleans(),
)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> reformer_export.Runtime:
    return reformer_export.load(write_artifact(tmp_path_factory.mktemp("a") / "out"), threads=1)


@given(LENGTHS, BATCHINGS)
def test_a_plan_holds_each_position_once_within_the_limits(lengths: list[int], batching: Batching) -> None:
    plan = plan_batches(lengths, batching, SPEC)
    assert sorted(position for batch in plan for position in batch) == list(range(len(lengths)))
    for batch in plan:
        widest = max(lengths[position] for position in batch)
        assert batching.rows is None or len(batch) <= batching.rows
        assert batching.tokens is None or len(batch) == 1 or len(batch) * widest <= batching.tokens
        if not batching.mixes_lengths and widest > SPEC.padding_threshold:
            assert {SPEC.padded_length(lengths[position]) for position in batch} == {
                SPEC.padded_length(widest)
            }


@given(LENGTHS)
def test_batches_are_as_full_as_they_may_be(lengths: list[int]) -> None:
    """At most one batch of a group has room left."""
    plan = plan_batches(lengths, Batching(rows=4), SPEC)
    short = [
        SPEC.padded_length(max(lengths[position] for position in batch)) for batch in plan if len(batch) < 4
    ]
    groups = [8 if length <= SPEC.padding_threshold else length for length in short]
    assert len(groups) == len(set(groups))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, BATCHINGS, st.sets(st.integers(0, 60)), st.integers(0, 2**32))
def test_order_and_answers_are_those_of_lines_alone(
    runtime: reformer_export.Runtime, lengths: list[int], batching: Batching, bad: set[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    lines = [
        InputLine(index, "", error="bad")
        if index in bad
        else InputLine(index, "", InputSequence(generator.integers(0, 258, length)))
        for index, length in enumerate(lengths)
    ]
    totals, told = Totals(), []
    results: list[InputLine | SequenceResult] = []
    for window in windows_from_lines(iter(lines), batching, runtime.spec):
        added, done = run_window(runtime, window, batching, told.append)
        results += added
        totals += done
    assert [result.index for result in results] == list(range(len(lines)))
    table = next_token_table(258)
    for line, result in zip(lines, results, strict=True):
        if line.sequence is None:
            assert result is line
        else:
            assert isinstance(result, SequenceResult)
            np.testing.assert_array_equal(result.outputs["logits"], table[line.sequence.ids])
    good = [line.sequence for line in lines if line.sequence is not None]
    assert sum(told) == len(lines)
    assert (totals.sequences, totals.skipped) == (len(good), len(lines) - len(good))
    assert totals.tokens == sum(len(sequence.ids) for sequence in good)
    assert totals.cells >= totals.tokens
    assert 0 <= totals.padding_share < 1


@pytest.mark.parametrize(
    ("field", "value"), [("rows", 0), ("tokens", -1), ("window", 0), ("window", None), ("rows", "2")]
)
def test_batchings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field}: got {value!r}, expected an integer from 1 up"):
        Batching(**{field: value})


def test_windows_end_where_memory_or_work_would_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [InputLine(i, "", InputSequence(np.zeros(16, np.int64))) for i in range(10)]
    batching = Batching(rows=None, window=8)

    def sizes() -> list[int]:
        return [len(window) for window in windows_from_lines(lines, batching, SPEC)]

    assert sizes() == [8, 2]
    monkeypatch.setattr(batches, "WINDOW_TOKENS", 48)
    assert sizes() == [3, 3, 3, 1]
    monkeypatch.setattr(batches, "WINDOW_OUTPUT_BYTES", 2 * 16 * 258 * 4)
    assert sizes() == [2, 2, 2, 2, 2]
    assert [len(window) for window in windows_from_lines(lines, Batching(), SPEC)] == [1] * 10


@pytest.mark.parametrize(
    ("changes", "model_class"),
    [
        ({}, transformers.ReformerForMaskedLM),
        ({"is_decoder": True}, transformers.ReformerModelWithLMHead),
        (
            {
                "local_attn_chunk_length": 4,
                "lsh_attn_chunk_length": 6,
                "axial_pos_shape": [8, 9],
                "max_position_embeddings": 72,
            },
            transformers.ReformerForMaskedLM,
        ),
        ({}, transformers.ReformerForSequenceClassification),
    ],
    ids=["encoder", "decoder", "two chunk lengths", "classification"],
)
def test_company_of_one_padded_length_changes_no_answer(
    tmp_path: Path, changes: dict[str, object], model_class: type
) -> None:
    """A real Reformer, all lengths: rows batched by default equal the rows alone."""
    checkpoint = save_model(tmp_path, config_t(**changes), model_class)
    exported = CliRunner().invoke(cli, ["onnx", str(checkpoint), str(tmp_path / "out"), "--no-verify"])
    assert exported.exit_code == 0, exported.exception
    for native in ("auto", "off"):
        with reformer_export.load(tmp_path / "out", threads=1, native=native) as runtime:
            compare_with_alone(runtime)


def compare_with_alone(runtime: reformer_export.Runtime) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.permutation(np.repeat(np.arange(1, runtime.spec.max_length + 1), 3))
    rows = [InputSequence(generator.integers(0, 50, length)) for length in lengths]
    lines = [InputLine(index, "", row) for index, row in enumerate(rows)]
    results, totals = run_window(runtime, lines, Batching(rows=8), lambda count: None)
    assert 0 < totals.padding_share < 0.3
    for result in results:
        assert isinstance(result, SequenceResult)
        for name, alone in runtime.run([result.sequence.ids]).items():
            np.testing.assert_allclose(result.outputs[name], alone[0], rtol=0, atol=1e-6)


def test_the_padding_share_is_reported(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    rows = [[5] * 20, [6] * 40, [7] * 60]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    options = ["run", str(out), "--file", str(tmp_path / "rows.jsonl"), "--json", "--batch-size", "3"]
    for more, share in (([], 0.0), (["--pad"], 1 - 120 / 180)):
        result = CliRunner().invoke(cli, [*options, *more])
        assert json.loads(result.stdout)["padding_share"] == pytest.approx(share)
        assert f"padding {share:.1%}" in result.stderr


def test_outputs_are_counted_as_the_graph_gives_them() -> None:
    """reformer-pytorch's models end with the mean of the streams, half as wide as transformers' two."""
    alone = make_alone()
    assert count_output_bytes(alone, 7) == 4 * 7 * alone.hidden_size
    whole, last = make_spec(), make_spec(logits="last")
    assert [count_output_bytes(spec, 7) for spec in (whole, last)] == [
        28 * whole.vocab_size,
        4 * last.vocab_size,
    ]
    assert [has_row_a_token(spec) for spec in (alone, whole, last)] == [True, True, False]
