"""Reformer and LSHSelfAttention alone against the unpatched package, on the same rotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.reference.lucidrains import EagerLucidrains
from tests.lucidrains import (
    SMALL_ATTENTION,
    SMALL_REFORMER,
    save_model,
    vector_keyword_arguments,
)
from tests.modeling.test_lucidrains import ATOL, error_of_drawn_lengths, manifest_of


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    keywords=vector_keyword_arguments(),
    wrapper=st.sampled_from([None, "Autopadder"]),
    kind=st.sampled_from(["whole", "padded", "holes"]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_it_equals_eager(
    keywords: dict[str, Any], wrapper: str | None, kind: str, batch: int, seed: int, data: st.DataObject
) -> None:
    assert error_of_drawn_lengths(keywords, wrapper, kind, batch, seed, data) < ATOL


@pytest.mark.parametrize(
    ("keywords", "wrapper"),
    [
        (SMALL_ATTENTION, None),
        (SMALL_ATTENTION, "Autopadder"),
        (SMALL_ATTENTION | {"full_attn_thres": 13, "num_mem_kv": 3}, None),
        (SMALL_ATTENTION | {"n_local_attn_heads": 1}, None),
        (SMALL_REFORMER, None),
        (SMALL_REFORMER | {"full_attn_thres": 13}, None),
        (SMALL_REFORMER | {"n_local_attn_heads": 1, "full_attn_thres": 24}, "Autopadder"),
    ],
)
def test_every_length_that_is_refused_is_refused_by_eager(
    tmp_path: Path, keywords: dict[str, Any], wrapper: str | None
) -> None:
    file, config = save_model(tmp_path, keywords | {"max_seq_len": 40}, wrapper)
    checkpoint = load_lucidrains(str(file), config, LoadOptions())
    eager = EagerLucidrains(file, manifest_of(checkpoint))
    for length in range(1, 41):
        vectors, mask = np.ones((1, length, 32), np.float32), np.ones((1, length), np.int64)
        try:
            eager.run(vectors, mask)
            runs = True
        except AssertionError:
            runs = False
        assert checkpoint.spec.takes_length(length) == runs, f"{length} tokens"


def test_a_state_dict_is_read_as_the_package_loads_it(tmp_path: Path) -> None:
    """Two names for each tensor of a Reformer, and weights that are tied."""
    file, config = save_model(tmp_path, SMALL_REFORMER | {"depth": 3, "weight_tie": True}, None)
    state = torch.load(file, weights_only=True)
    checkpoint = load_lucidrains(str(file), config, LoadOptions())
    name = "encoder.layers.2.attention.self_attention.query_key.weight"
    assert torch.equal(checkpoint.weights[name], state["layers.irrev_blocks.1.f.fn.toqk.weight"])
