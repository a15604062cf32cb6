from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from reformer_export.checkpoints import hashing
from reformer_export.checkpoints.checkpoint import LoadOptions


def num_buckets_of_transformers(length: int, chunk_length: int, max_positions: int) -> tuple[int, ...]:
    layer = SimpleNamespace(
        chunk_length=chunk_length, max_position_embeddings=max_positions, config=SimpleNamespace()
    )
    LSHSelfAttention._set_num_buckets(layer, length)
    return tuple(layer.num_buckets) if isinstance(layer.num_buckets, list) else (layer.num_buckets,)


@settings(max_examples=500, deadline=None)
@given(
    chunks=st.integers(2, 2**14),
    chunk_length=st.sampled_from([1, 2, 3, 7, 8, 12, 64, 100, 256]),
    max_positions=st.integers(1, 2**20),
)
def test_num_buckets_are_those_of_transformers(chunks, chunk_length, max_positions):
    length = chunks * chunk_length

    got = hashing.resolve_num_buckets(length, chunk_length, max_positions)

    assert got == num_buckets_of_transformers(length, chunk_length, max_positions)
    assert all(factor % 2 == 0 for factor in got)


def test_num_buckets_of_many_lengths():
    for chunks in range(2, 600):
        assert hashing.resolve_num_buckets(8 * chunks, 8, 4096) == num_buckets_of_transformers(
            8 * chunks, 8, 4096
        )


@pytest.mark.parametrize("length", [1, 7, 8])
def test_a_layer_that_never_hashes_gets_the_fewest_buckets(length):
    assert hashing.resolve_num_buckets(length, 8, 64) == (2,)


@pytest.mark.parametrize(
    ("stored", "override", "seeds", "origin"),
    [
        (None, None, (1, 3), "drawn per layer"),
        (None, 10, (11, 13), "drawn per layer"),
        (7, None, (7, 7), "checkpoint"),
        (0, None, (0, 0), "checkpoint"),
        (7, 10, (10, 10), "override"),
        (7, 0, (0, 0), "override"),
    ],
)
def test_seeds(stored, override, seeds, origin):
    choice = hashing.choose_hash_seeds(stored, (1, 3), LoadOptions(hash_seed=override))

    assert choice.to_dict() == {"checkpoint": stored, "used": list(seeds), "from": origin}


@pytest.mark.parametrize(
    ("stored", "override", "used", "origin"),
    [
        (4, None, (4,), "checkpoint"),
        ([4, 8], None, (4, 8), "checkpoint"),
        (4, (2, 2), (2, 2), "override"),
        (None, (16,), (16,), "override"),
    ],
)
def test_num_buckets(stored, override, used, origin):
    choice = hashing.choose_num_buckets(stored, LoadOptions(num_buckets=override))

    assert choice.to_dict() == {"checkpoint": stored, "used": list(used), "from": origin}


def test_num_hashes():
    assert hashing.choose_num_hashes(2, LoadOptions()).to_dict()["from"] == "checkpoint"
    assert hashing.choose_num_hashes(2, LoadOptions(num_hashes=4)).to_dict() == {
        "checkpoint": 2,
        "used": 4,
        "from": "override",
    }
