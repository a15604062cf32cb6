from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import transformers

from reformer_export.errors import InputError
from reformer_export.parity.cases import Case, choose_cases, default_cases, longest_comparable, make_inputs
from reformer_export.spec import AxialPositionsSpec, LocalAttentionSpec, LSHAttentionSpec, ModelSpec
from tests.hf_models import config_t, save_model
from tests.parity.sessions import sweep_artifact


@pytest.fixture
def spec():
    return ModelSpec(
        task="text-generation",
        vocab_size=320,
        hidden_size=256,
        num_heads=2,
        head_size=64,
        feed_forward_size=512,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        is_causal=True,
        positions=AxialPositionsSpec((512, 1024), (64, 192)),
        max_position_embeddings=524288,
        layers=(LocalAttentionSpec(64, 1, 0), LSHAttentionSpec(32, 1, 0, 4, (64, 128), 0)),
    )


def test_default_sweep_covers_what_the_issue_names(spec):
    cases = default_cases(spec)
    lengths = {case.length for case in cases}
    assert {1, 31, 32, 33, 63, 64, 65} <= lengths
    assert max(lengths) == longest_comparable(spec) < spec.max_length
    assert {case.batch for case in cases} == {1, 2, 3}
    assert any(case.length % 64 and case.length > 64 for case in cases)
    assert any(case.masked for case in cases)


def test_short_sequences_limit_the_sweep(spec):
    tiny = dataclasses.replace(spec, max_position_embeddings=64)
    assert max(case.length for case in default_cases(tiny)) == tiny.max_length == 64
    assert all(case.length <= 64 for case in default_cases(tiny, short=True))


def test_chosen_lengths_and_batches_are_combined(spec):
    cases = choose_cases(spec, lengths=[1, 70], batch_sizes=[2])
    assert cases == [Case(1, 2, False), Case(70, 2, False), Case(70, 2, True)]


def test_inputs_depend_on_the_seed_only(spec):
    case = Case(50, 3, masked=True)
    first, again, other = (make_inputs(spec, case, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert (first[1][:, 0] == 1).all()
    assert (np.diff(first[1], axis=1) <= 0).all()
    assert first[1].min() == 0


def test_cases_that_do_not_fit_are_refused(tmp_path):
    from tests.export.test_export import export

    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out")
    for cases in ([], [Case(65, 1, False)], [Case(0, 1, False)]):
        with pytest.raises(InputError):
            sweep_artifact(tmp_path / "out", folder, cases)
