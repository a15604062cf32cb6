"""The shipped models of the duplication task, from their exported files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.duplication_table import (
    EVALUATED,
    HALF_LENGTH,
    MODELS,
    TRAINED,
    draw_held_out,
    export_variant,
    measure_accuracy,
)
from reformer_export.artifact.manifest import read_manifest
from reformer_export.parity.cases import Case
from tests.parity.sessions import sweep_artifact

LENGTH = 2 * HALF_LENGTH


@pytest.fixture(scope="module")
def sequences():
    return draw_held_out(16)


@pytest.fixture(scope="module")
def with_four_hashes(tmp_path_factory) -> Path:
    artifact = tmp_path_factory.mktemp("duplication") / "four"
    export_variant(MODELS / "lsh-4", "lsh-4", 0, artifact)
    return artifact


def test_held_out_sequences_repeat_a_word_of_symbols_after_a_separator(sequences):
    assert sequences.shape == (16, LENGTH)
    first, second = sequences[:, :HALF_LENGTH], sequences[:, HALF_LENGTH:]
    assert np.array_equal(first, second)
    assert not first[:, 0].any()
    assert {first[:, 1:].min(), first[:, 1:].max()} == {1, 127}
    assert len(np.unique(first, axis=0)) == 16


@pytest.mark.parametrize("trained", TRAINED)
def test_shipped_config_is_that_of_its_name(trained):
    config = json.loads((MODELS / trained / "config.json").read_text(encoding="utf-8"))
    assert config["hash_seed"] == 0
    if trained == "full":
        assert config["lsh_attn_chunk_length"] == LENGTH
    else:
        assert config["lsh_attn_chunk_length"] == 16
        assert config["num_hashes"] == int(trained.removeprefix("lsh-"))


def test_artifact_agrees_with_eager_and_keeps_the_seed(with_four_hashes):
    (layer,) = read_manifest(with_four_hashes).spec.layers
    assert (layer.num_hashes, layer.hash_seed, layer.chunk_length) == (4, 0, 16)
    cases = [Case(LENGTH, 2, masked=False), Case(100, 1, masked=False)]
    assert sweep_artifact(with_four_hashes, MODELS / "lsh-4", cases).passed


def test_accuracy_depends_on_the_number_of_hashes(with_four_hashes, sequences, tmp_path):
    export_variant(MODELS / "lsh-4", "lsh-1", 0, tmp_path / "one")
    four = measure_accuracy(with_four_hashes, sequences, threads=1)
    one = measure_accuracy(tmp_path / "one", sequences, threads=1)
    assert four > 0.99
    assert 0.5 < one < four - 0.05


def test_full_attention_is_exported_as_one_dense_block(sequences, tmp_path):
    export_variant(MODELS / "lsh-1", "full", 0, tmp_path / "full")
    (layer,) = read_manifest(tmp_path / "full").spec.layers
    assert layer.chunk_length == LENGTH
    assert measure_accuracy(tmp_path / "full", sequences[:4], threads=1) > 0.99


def test_recorded_table_is_whole_and_stands_in_the_card():
    table = json.loads((MODELS / "table.json").read_text(encoding="utf-8"))
    card = (MODELS / "README.md").read_text(encoding="utf-8")
    assert table["sequences"] >= 200
    for trained in TRAINED:
        for evaluated in EVALUATED:
            seeds = table["accuracy"][trained][evaluated]
            assert len(seeds) == (1 if evaluated == "full" else 5)
            mean = f"**{100 * sum(seeds) / len(seeds):.1f}**"
            assert f"{mean} ({table['paper_percent'][trained][evaluated]})" in card


def test_shipped_models_are_small():
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 8e6
