from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.attention_spec import MAX_NUM_BUCKETS
from reformer_export.errors import SpecError
from reformer_export.lucidrains_spec import RotaryPositionsSpec
from reformer_export.spec import (
    ACTIVATIONS,
    MAX_DIMENSION,
    MAX_POSITIONS,
    TASKS,
    AttentionSpec,
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    ModelSpec,
)
from tests.runtimes.artifacts import make_spec

small = st.integers(1, 24)
chunks = st.integers(0, 2)
layers = st.one_of(
    st.builds(LocalAttentionSpec, small, chunks, chunks),
    st.builds(
        LSHAttentionSpec,
        small,
        chunks,
        chunks,
        num_hashes=st.integers(1, 5),
        num_buckets=st.lists(st.integers(1, 8).map(lambda n: 2 * n), min_size=1, max_size=3).map(tuple),
        hash_seed=st.integers(-(2**63), 2**64 - 1),
    ),
)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    dims = draw(st.lists(small, min_size=1, max_size=3))
    shape = draw(st.lists(st.integers(4, 12), min_size=len(dims), max_size=len(dims)))
    axial = AxialPositionsSpec(tuple(shape), tuple(dims))
    learned = LearnedPositionsSpec(draw(st.integers(24, 500)))
    task = draw(st.sampled_from(TASKS))
    slices = draw(small)
    return ModelSpec(
        task=task,
        vocab_size=draw(small),
        hidden_size=sum(dims),
        num_heads=draw(small),
        head_size=draw(small),
        feed_forward_size=slices * draw(small),
        hidden_act=draw(st.sampled_from(ACTIVATIONS)),
        layer_norm_eps=draw(st.floats(0.0, 0.5)),
        is_causal=draw(st.booleans()),
        positions=draw(st.sampled_from([axial, learned])),
        max_position_embeddings=draw(st.integers(1, 600)),
        layers=tuple(draw(st.lists(layers, min_size=1, max_size=4))),
        num_labels=draw(small),
        feed_forward_slices=slices,
        logits=draw(st.sampled_from(["all", "last"])) if task == "text-generation" else "all",
    )


@given(specs())
@settings(deadline=None)
def test_the_greatest_length_is_the_one_found_by_trying(spec: ModelSpec) -> None:
    """The greatest L whose padded length has positions; every shorter one has, too."""
    limit = min(spec.positions.num_positions, spec.max_position_embeddings)
    fits = [length for length in range(1, limit + 1) if spec.padded_length(length) <= limit]
    assert spec.max_length == max(fits)
    assert fits == list(range(1, spec.max_length + 1))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 200))
@settings(deadline=None)
def test_the_padded_length_is_the_one_found_by_trying(lengths: list[int], length: int) -> None:
    """The smallest multiple of every chunk length that is not below `length`, unless one chunk holds it."""
    spec = replace(layers=tuple(LocalAttentionSpec(chunk, 1, 0) for chunk in lengths))
    padded = length
    if length > min(lengths):
        while any(padded % chunk for chunk in lengths):
            padded += 1
    assert spec.padded_length(length) == padded


def test_lengths_of_cases_with_known_answers() -> None:
    """Cases 3 and 5: chunks of 4 and 6, axial (8, 9); chunks of 8."""
    mixed = replace(
        positions=AxialPositionsSpec((8, 9), (2, 2)),
        max_position_embeddings=72,
        layers=(LocalAttentionSpec(4, 1, 0), LSHAttentionSpec(6, 1, 0, 2, (4,), 3)),
    )
    assert (mixed.padding_multiple, mixed.padding_threshold, mixed.max_length) == (12, 4, 72)
    assert [mixed.padded_length(length) for length in (4, 5, 10, 12, 13)] == [4, 12, 12, 12, 24]
    plain = replace()
    assert [plain.padded_length(length) for length in (1, 7, 8, 9, 20, 64)] == [1, 7, 8, 16, 24, 64]


def test_names_and_layers() -> None:
    spec = replace(task="question-answering", is_causal=False)
    assert spec.output_names == ("start_logits", "end_logits")
    assert spec.lsh_layers == (1,)
    assert replace(positions=AxialPositionsSpec((4, 5), (1, 3))).position_limit == 20


def replace(**changes: Any) -> ModelSpec:
    return dataclasses.replace(make_spec(), **changes)


def replace_lsh(**changes: Any) -> AttentionSpec:
    return dataclasses.replace(make_spec().layers[1], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, f"{name}: got {value!r}, expected an integer from 1")
            for name in ("vocab_size", "hidden_size", "num_heads", "head_size", "feed_forward_size")
            for value in (0, -1, 1.0, True, "8", None, MAX_DIMENSION + 1)
        ),
        *(
            ({name: 0}, f"{name}: got 0")
            for name in ("max_position_embeddings", "num_labels", "feed_forward_slices")
        ),
        ({"task": "translation"}, "task: got translation"),
        ({"hidden_act": "mish"}, "hidden_act: got mish"),
        ({"layer_norm_eps": math.nan}, "layer_norm_eps: got nan"),
        ({"layer_norm_eps": 1}, "layer_norm_eps: got 1"),
        ({"layer_norm_eps": -1e-9}, "layer_norm_eps"),
        ({"is_causal": "no"}, "is_causal: got 'no'"),
        ({"layers": ()}, "attn_layers: got 0 layers"),
        (
            {"feed_forward_slices": 3},
            "feed_forward_slices: got 3, expected a divisor of the feed-forward size 8",
        ),
        ({"layers": (replace_lsh(num_buckets=()),)}, "num_buckets: got no factor"),
        ({"positions": RotaryPositionsSpec(64)}, "positions: got RotaryPositionsSpec"),
        ({"logits": "first"}, "logits: got first"),
        ({"logits": "last", "task": "fill-mask"}, "expected 'all' for the task fill-mask"),
        (
            {"positions": AxialPositionsSpec((8, 8), (2, 3))},
            "which sum to 5, expected the sum hidden_size = 4",
        ),
        (
            {
                "positions": LearnedPositionsSpec(MAX_POSITIONS + 1),
                "max_position_embeddings": MAX_POSITIONS + 1,
            },
            f"at most {MAX_POSITIONS}",
        ),
    ],
)
def test_models_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        replace(**changes)
    assert message in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_length": 0}, "lsh_attn_chunk_length"),
        ({"num_chunks_before": -1}, "lsh_num_chunks_before: got -1, expected an integer from 0"),
        ({"num_chunks_after": 0.5}, "lsh_num_chunks_after"),
        ({"num_hashes": 0}, "num_hashes"),
        ({"num_buckets": (5,)}, "num_buckets: got 5, expected even numbers"),
        ({"num_buckets": (4, 3)}, "num_buckets: got 4x3, expected even numbers"),
        ({"num_buckets": (0,)}, "num_buckets: got 0"),
        ({"num_buckets": (2.0,)}, "num_buckets: got 2.0"),
        ({"num_buckets": (MAX_NUM_BUCKETS, 2)}, f"at most {MAX_NUM_BUCKETS}"),
        ({"hash_seed": 2**64}, "hash_seed"),
        ({"hash_seed": None}, "hash_seed: got None"),
        ({"hash_seed": 1.5}, "hash_seed: got 1.5"),
    ],
)
def test_lsh_layers_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace_lsh(**changes)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (8, -1, 0), (8, 1, None)])
def test_local_layers_that_are_refused(arguments: tuple[Any, Any, Any]) -> None:
    with pytest.raises(SpecError, match="local_"):
        LocalAttentionSpec(*arguments)


@pytest.mark.parametrize(("shape", "dims"), [((), ()), ((8,), (2, 2)), ((8, 0), (2, 2)), ((8, 8), (4, 0))])
def test_axial_positions_that_are_refused(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="axial_pos"):
        AxialPositionsSpec(shape, dims)


def test_learned_positions_that_are_refused() -> None:
    with pytest.raises(SpecError, match="max_position_embeddings"):
        LearnedPositionsSpec(0)
