from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.artifact.spec_values import spec_from_values, values_from_spec
from reformer_export.errors import SpecError
from reformer_export.lucidrains_spec import (
    LucidrainsSpec,
    NoPositionsSpec,
    RotaryPositionsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
)
from reformer_export.parity.cases import default_cases
from reformer_export.product_keys_spec import ProductKeysSpec
from reformer_export.spec import (
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
)

LAYER = LSHAttentionSpec(4, 1, 0, num_hashes=2, num_buckets=(), hash_seed=0)


def make_spec(**changes: Any) -> LucidrainsSpec:
    fields: dict[str, Any] = {
        "task": "text-generation",
        "vocab_size": 20,
        "hidden_size": 8,
        "num_heads": 4,
        "head_size": 2,
        "feed_forward_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "is_causal": True,
        "positions": RotaryPositionsSpec(50),
        "max_position_embeddings": 50,
        "layers": (LAYER, LAYER),
        "embedding_size": 8,
        "bucket_size": 4,
        "is_padded": True,
    }
    return LucidrainsSpec(**fields | changes)


@st.composite
def specs(draw: st.DrawFn) -> LucidrainsSpec | None:
    bucket_size, limit = draw(st.integers(1, 6)), draw(st.integers(1, 60))
    positions = (RotaryPositionsSpec(limit), SinusoidalPositionsSpec(limit), LearnedPositionsSpec(limit))
    axial = SummedAxialPositionsSpec((draw(st.integers(1, 8)), draw(st.integers(1, 8))))
    local = draw(st.integers(0, 3))
    memory = draw(st.integers(0, 7)) if not local else 2 * bucket_size * draw(st.integers(0, 1))
    try:
        return make_spec(
            layers=(dataclasses.replace(LAYER, chunk_length=bucket_size),),
            bucket_size=bucket_size,
            positions=draw(st.sampled_from([*positions, axial])),
            max_position_embeddings=limit,
            is_padded=draw(st.booleans()),
            dense_threshold=draw(st.integers(0, 40)),
            num_local_heads=local,
            num_memory_keys=memory,
            norm=draw(st.sampled_from(["layer", "scale", "rezero"])),
            product_keys=draw(st.sampled_from([None, ProductKeysSpec((0,), 40, "batch")])),
        )
    except SpecError:  # too short a limit for one chunk; `test_models_that_are_refused` has the words
        return None


@given(specs())
@settings(deadline=None)
def test_a_spec_survives_json(spec: LucidrainsSpec | None) -> None:
    if spec is not None:
        assert spec_from_values(json.loads(json.dumps(values_from_spec(spec)))) == spec


@given(specs())
@settings(deadline=None, max_examples=300)
def test_the_greatest_length_is_the_one_found_by_trying(spec: LucidrainsSpec | None) -> None:
    """By the package's own rules: what it asserts of a length, and what positions it has."""
    if spec is None:
        return
    keys, multiple = spec.num_memory_keys, 2 * spec.bucket_size
    table = isinstance(spec.positions, LearnedPositionsSpec | SummedAxialPositionsSpec)

    def runs(length: int) -> bool:
        padded, is_dense = length, length + keys <= spec.dense_threshold
        while spec.is_padded and not is_dense and (padded + keys) % multiple:
            padded += 1
        whole = (padded + keys) % multiple == 0
        fits = whole or (is_dense and not spec.num_local_heads)
        return fits and not (table and padded > spec.positions.num_positions)

    taken = [n for n in range(1, spec.max_position_embeddings + 1) if runs(n)]
    assert spec.max_length == max(taken)
    assert [n for n in range(1, 70) if spec.takes_length(n)] == taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "question-answering"}, "task: got question-answering"),
        ({"positions": AxialPositionsSpec((8, 8), (4, 4))}, "positions: got AxialPositionsSpec"),
        (
            {"layers": (dataclasses.replace(LAYER, num_buckets=(4,)),)},
            r"num_buckets: got \(4,\), expected none",
        ),
        ({"layers": ()}, "attn_layers"),
        ({"num_local_heads": 4}, "n_local_attn_heads: got 4"),
        ({"num_local_heads": 1, "num_memory_keys": 3}, "num_mem_kv: got 3 beside n_local_attn_heads 1"),
        ({"head_size": 3}, "dim_head: got 3, expected an even number"),
        ({"positions": SinusoidalPositionsSpec(50), "embedding_size": 7}, "emb_dim: got 7"),
        ({"norm": "batch"}, "norm: got 'batch'"),
        ({"is_padded": 1}, "is_padded: got 1, expected true or false"),
        ({"feed_forward_slices": 2}, "feed_forward_slices"),
        ({"dense_threshold": -1}, "full_attn_thres"),
        ({"bucket_size": 2**25}, "bucket_size"),
        ({"product_keys": ProductKeysSpec((0, 2), 32)}, "pkm_layers: got layer 3, expected at most 2 layers"),
        ({"is_padded": False, "max_position_embeddings": 5}, "room for at least one token"),
    ],
)
def test_models_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((), 32), r"pkm_layers: got \(\)"),
        (((1, 0), 32), r"pkm_layers: got \(1, 0\), expected layers in their order"),
        (((-1,), 32), "pkm_layers: got -1"),
        (((0,), 31), "pkm_num_keys: got 31, expected an integer from 32"),
        (((0,), 10**6), "pkm_num_keys: got 1000000"),
        (((0,), 32, "group"), "query_norm: got 'group'"),
    ],
)
def test_memories_that_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ProductKeysSpec(*fields)


@pytest.mark.parametrize("family", ["keras", None, 5, ["lucidrains"]])
def test_a_family_that_is_not_known(family: object) -> None:
    with pytest.raises(SpecError, match="fields that do not fit"):
        spec_from_values(values_from_spec(make_spec()) | {"family": family})


def test_values_without_a_family_are_transformers() -> None:
    values = values_from_spec(make_spec())
    assert values.pop("family") == "lucidrains"
    with pytest.raises(SpecError, match="fields that do not fit"):
        spec_from_values(values)


def test_shapes_and_layers() -> None:
    spec = make_spec(num_memory_keys=3, num_local_heads=0, rotations_per_head=True)
    assert spec.padded_length(50) == 53
    assert spec.keys_in_graph(1) == 8
    assert spec.rotations_shape(1) == (4, 2, 2, 7)
    assert spec.bucket_factors(0, 56) == (14,)
    assert make_spec().rotations_shape(0)[0] == 1
    assert make_spec(layers=(LocalAttentionSpec(56, 0, 0),)).lsh_layers == ()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_padded": False},
        {"is_padded": False, "dense_threshold": 13},
        {"dense_threshold": 24, "num_local_heads": 1},
        {"num_memory_keys": 3, "is_padded": False},
    ],
)
def test_a_short_comparison_hashes(changes: dict[str, Any]) -> None:
    spec = make_spec(**changes)
    cases = default_cases(spec, short=True)
    assert all(spec.takes_length(case.length) for case in cases)
    assert any(spec.is_hashed(0, case.length) for case in cases)
    assert any(spec.is_hashed(0, case.length) for case in default_cases(spec))


def make_alone(**changes: Any) -> LucidrainsSpec:
    """An LSHSelfAttention alone."""
    fields: dict[str, Any] = {
        "task": "feature-extraction",
        "vocab_size": 0,
        "feed_forward_size": 0,
        "positions": NoPositionsSpec(50),
        "layers": (LAYER,),
        "norm": "none",
        "architecture": "LSHSelfAttention",
    }
    return make_spec(**fields | changes)


def test_a_model_of_vectors_survives_json() -> None:
    reformer = {
        "architecture": "Reformer",
        "norm": "scale",
        "feed_forward_size": 16,
        "layers": (LAYER, LAYER),
    }
    for spec in (make_alone(), make_alone(**reformer)):
        assert spec_from_values(json.loads(json.dumps(values_from_spec(spec)))) == spec
        assert spec.takes_vectors
        assert spec.input_names == ("inputs_embeds", "attention_mask")
        assert spec.max_length == 50
    assert make_spec().input_names == ("input_ids", "attention_mask")
    values = values_from_spec(make_spec())
    del values["architecture"]  # as older versions wrote them
    assert spec_from_values(values) == make_spec()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 5}, "vocab_size: got 5, expected what the class LSHSelfAttention has"),
        ({"feed_forward_size": 5}, "feed_forward_size: got 5"),
        (
            {"architecture": "Reformer", "norm": "layer"},
            "feed_forward_size: got 0, expected an integer from 1",
        ),
        ({"architecture": "ReformerEncDec"}, "architecture: got 'ReformerEncDec'"),
        ({"norm": "layer"}, "norm: got 'layer'"),
        ({"layers": (LAYER, LAYER)}, "layers: got"),
        ({"positions": RotaryPositionsSpec(50)}, r"positions: got RotaryPositionsSpec\(num_positions=50\)"),
        ({"task": "text-generation"}, "task: got 'text-generation'"),
        ({"embedding_size": 4}, "embedding_size: got 4"),
        ({"hidden_size": 0}, "hidden_size: got 0"),
    ],
)
def test_models_of_vectors_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_alone(**changes)
    for own in ({"norm": "none"}, {"positions": NoPositionsSpec(50)}, {"vocab_size": 0}):
        with pytest.raises(SpecError):
            make_spec(**own)
