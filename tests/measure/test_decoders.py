"""Each contender continues the same sequences, in the way that its name says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure.contenders import load_eager, random_ids
from reformer_export.measure.decoders import DecodeSetup, open_continuations
from tests.measure.decode_model import all_setups, export_decoder

TOKENS = random_ids(50, 3, 30)
PROMPT = 21
TOLERANCE = 5e-5
"""Of the sweep in parity, float32."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_decoder(tmp_path_factory.mktemp("decoders"))


@pytest.fixture(scope="module")
def setups(exported: tuple[Path, Path]) -> list[DecodeSetup]:
    return all_setups(*exported)


def test_prompts_agree_and_whole_passes_do_at_every_token(setups: list[DecodeSetup]) -> None:
    with open_continuations(setups) as opened:
        passes = opened["artifact-passes"]
        expected = passes.start(TOKENS[:, :PROMPT])
        assert expected.shape == (3, 50)
        for name in ("artifact", "eager-passes", "eager-cache"):
            found = opened[name].start(TOKENS[:, :PROMPT])
            np.testing.assert_allclose(found, expected, atol=TOLERANCE, err_msg=name)
        for at in range(PROMPT, 25):
            np.testing.assert_allclose(
                passes.step(TOKENS[:, at]), opened["eager-passes"].step(TOKENS[:, at]), atol=TOLERANCE
            )


def test_eager_runs_on_its_own_cache(setups: list[DecodeSetup]) -> None:
    """Its numbers, whatever they are: those of transformers called with the cache by hand."""
    model = load_eager(setups[-1].setup)
    with open_continuations(setups[-1:]) as opened, torch.inference_mode():
        cached = opened["eager-cache"]
        assert cached.cache_bytes == 0
        for _ in range(2):  # a second prompt begins anew
            found = [cached.start(TOKENS[:1, :PROMPT])]
            found += [cached.step(TOKENS[:1, at]) for at in range(PROMPT, 25)]
        past, expected = None, []
        for ids in (TOKENS[:1, :PROMPT], *(TOKENS[:1, [at]] for at in range(PROMPT, 25))):
            outputs = model(torch.from_numpy(ids), past_buckets_states=past, use_cache=True)
            past = outputs.past_buckets_states
            expected.append(outputs.logits[:, -1].numpy())
        np.testing.assert_allclose(found, expected, atol=1e-6)
        states = sum(states.numel() * 4 for states in past.states_cache)
        assert states == 2 * 25 * 16 * 4
        assert cached.cache_bytes >= states


def test_steps_are_those_of_a_decoding_state_and_rows_those_of_each_alone(
    setups: list[DecodeSetup], exported: tuple[Path, Path]
) -> None:
    """And its bytes are those of the caches at their capacity."""
    with open_continuations(setups[:1]) as opened:
        steps = opened["artifact"]
        for _ in range(2):  # a second prompt begins anew
            together = [steps.start(TOKENS[:, :PROMPT])]
            together += [steps.step(TOKENS[:, at]) for at in range(PROMPT, 30)]
        spec = read_manifest(exported[1]).spec
        caches = cache_tensors(spec, "float32")
        assert steps.cache_bytes == sum(tensor.nbytes(3, 64) for tensor in caches)
        for row in range(3):
            alone = [steps.start(TOKENS[[row], :PROMPT])]
            alone += [steps.step(TOKENS[[row], at]) for at in range(PROMPT, 30)]
            np.testing.assert_allclose(np.stack(together)[:, row], np.concatenate(alone), atol=2e-5)


def test_a_cache_makes_several_steps_a_turn_and_is_given_back(setups: list[DecodeSetup]) -> None:
    with open_continuations(setups) as opened:
        counts = {name: each.steps_of_a_turn for name, each in opened.items()}
        assert counts == {"artifact": 8, "artifact-passes": 1, "eager-passes": 1, "eager-cache": 8}
        for each in opened.values():
            each.start(TOKENS[:, :PROMPT])
    assert {name: each.cache_bytes for name, each in opened.items()} == dict.fromkeys(counts, 0)


def test_a_setup_is_json_and_back(setups: list[DecodeSetup]) -> None:
    for setup in setups:
        assert msgspec.json.decode(msgspec.json.encode(setup), type=DecodeSetup) == setup
