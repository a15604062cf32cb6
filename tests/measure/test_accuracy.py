from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer_export import load
from reformer_export.errors import InputError
from reformer_export.measure import accuracy
from reformer_export.measure.accuracy import (
    TokenText,
    check_predicts_tokens,
    count_passes,
    cut_sequences,
    measure_accuracy,
    sum_next_token_loss,
)
from tests.runtimes.artifacts import make_spec, write_artifact
from tests.runtimes.test_num_hashes import write_choice_artifact


@pytest.mark.parametrize("block_elements", [1, 35, 2**22])
def test_loss_is_torch_s_cross_entropy(block_elements: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (23, 7)).astype(np.float32)
    ids = rng.integers(0, 7, 23)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[:-1]).double(), torch.from_numpy(ids[1:]), reduction="sum"
    )
    with mock.patch.object(accuracy, "BLOCK_ELEMENTS", block_elements):
        assert sum_next_token_loss(logits, ids) == pytest.approx(float(expected), rel=1e-12)


def test_loss_of_nan_is_nan() -> None:
    assert np.isnan(sum_next_token_loss(np.full((3, 4), np.nan, np.float32), np.array([0, 1, 2])))


@given(tokens=st.integers(0, 200), length=st.integers(2, 50))
def test_sequences_cover_the_text(tokens: int, length: int) -> None:
    ids = np.arange(tokens)
    pieces = cut_sequences(ids, length)
    assert all(len(piece) == length for piece in pieces[:-1])
    assert all(2 <= len(piece) <= length for piece in pieces)
    covered = np.concatenate([ids[:0], *pieces])
    assert np.array_equal(covered, ids[: len(covered)])
    assert tokens - len(covered) <= 1  # one last token has none before it


@pytest.mark.parametrize("tokens", [2, 8, 9, 41])
def test_rows_by_count(tmp_path: Path, tokens: int) -> None:
    """Logits of 4 x count for the token that comes: -log p = log(e^(4 count) + 257) - 4 count."""
    text = TokenText(np.arange(tokens), characters=2 * tokens)
    passes: list[int] = []
    with load(write_choice_artifact(tmp_path / "out"), threads=1) as model:
        result = measure_accuracy(model, text, 8, (2, 1), passes.append)
    assert sum(passes) == count_passes(tokens, 8, 2) == len(passes)
    assert [row.num_hashes for row in result.rows] == [2, 1]
    assert (result.sequence_length, result.characters) == (min(tokens, 8), 2 * tokens)
    for row in result.rows:
        assert row.num_hashes is not None
        assert row.loss == pytest.approx(np.log(np.exp(4 * row.num_hashes) + 257) - 4 * row.num_hashes)
        assert row.bits_per_character == pytest.approx(row.loss / np.log(2) / 2)
        assert row.tokens_per_second > 0
    predicted = {2: 1, 8: 7, 9: 7, 41: 35}[tokens]
    assert {row.tokens for row in result.rows} == {predicted}


def test_speed_is_the_median_whole_sequence_s(tmp_path: Path) -> None:
    """Seconds of the passes: 9 for the warm-up, then 1, 2, 4, and 100 for the shorter last sequence."""
    seconds = iter([9.0, 1.0, 2.0, 4.0, 100.0])
    logits = np.zeros((8, 258), np.float32)

    def run_timed(_runtime: Any, ids: Any, _count: Any) -> tuple[Any, float]:
        return logits[: len(ids)], next(seconds)

    with (
        load(write_artifact(tmp_path / "out")) as model,
        mock.patch.object(accuracy, "_run_timed", run_timed),
    ):
        result = measure_accuracy(model, TokenText(np.arange(29), 29), 8, (None,))
    (row,) = result.rows
    assert (row.num_hashes, row.tokens_per_second) == (None, 8 / 2)
    assert row.loss == pytest.approx(np.log(258))


@pytest.mark.parametrize(("length", "tokens"), [(1, 9), (65, 9), (8, 1), (8, 0)])
def test_what_cannot_be_measured(tmp_path: Path, length: int, tokens: int) -> None:
    with load(write_artifact(tmp_path / "out")) as model, pytest.raises(InputError, match=r"^data"):
        measure_accuracy(model, TokenText(np.arange(tokens), 9), length, (None,))


def test_models_that_do_not_predict_tokens() -> None:
    for task in ("fill-mask", "text-classification"):
        with pytest.raises(InputError, match=f"got an artifact for {task}, not causal"):
            check_predicts_tokens(make_spec(task))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="logits of the last token only"):
        check_predicts_tokens(make_spec(logits="last"))
    with pytest.raises(InputError, match="text-generation, not causal"):
        check_predicts_tokens(dataclasses.replace(make_spec(), is_causal=False))
    check_predicts_tokens(make_spec())
