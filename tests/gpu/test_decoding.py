"""The decoding state on CUDA: its caches in the GPU's memory give what those of the host give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.runtimes import cache_buffers
from tests.runtimes.decoders import decoding_artifact, draw_ids
from tests.runtimes.test_cache_memory import run_schedule

pytestmark = pytest.mark.gpu

TOLERANCE = 2e-4
"""Of float32 on a GPU against the CPU, through four layers."""
STEPS_OF_TYPE = {"float16": 2**-10, "bfloat16": 2**-7}
"""Relative: a step between neighbouring numbers, with which the head's products are rounded once more."""


@pytest.mark.parametrize("native", ["auto", "off"])
def test_joins_growth_moves_and_refreshes_are_the_cpu_s(monkeypatch: pytest.MonkeyPatch, native: Any) -> None:
    with load(decoding_artifact(), provider="cpu", native="off") as model:
        expected = run_schedule(model)
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", 8)
    with load(decoding_artifact(), provider="cuda", native=native) as model:
        np.testing.assert_allclose(run_schedule(model), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("native", ["auto", "off"])
def test_a_prompt_and_a_refresh_are_the_whole_pass(dtype: Any, native: Any) -> None:
    prompt, tokens = draw_ids(21), draw_ids(12, seed=1)
    with (
        load(decoding_artifact(dtype), provider="cuda", native=native) as model,
        model.start_decoding() as state,
    ):
        other, key = state.add(draw_ids(5)), state.add(prompt)
        for ids in (prompt, prompt + tokens):
            for token in ids[state.length(key) :]:
                state.step({key: token, other: token})
            if len(ids) > len(prompt):
                state.refresh(key)
            whole = model.run([ids])["logits"][0, -1]
            limit = STEPS_OF_TYPE.get(dtype, 1e-5) * float(abs(whole).max())
            np.testing.assert_allclose(state.logits(key), whole, atol=2 * limit, rtol=0)
