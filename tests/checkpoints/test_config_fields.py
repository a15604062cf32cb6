from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from transformers import ReformerConfig, ReformerModelWithLMHead

from reformer_export.checkpoints.config_fields import HONOURED, IRRELEVANT, KNOWN, REFUSED
from tests.hf_models import build_model, config_t


def test_every_field_of_the_config_is_in_a_table():
    is_dataclass = dataclasses.is_dataclass(ReformerConfig)  # as it was not in transformers 5.0
    declared = (
        dataclasses.fields(ReformerConfig)
        if is_dataclass
        else inspect.signature(ReformerConfig).parameters.values()
    )
    fields = {field.name for field in declared} - {"kwargs"} | ReformerConfig().to_dict().keys()

    assert fields - KNOWN == set()


def test_no_field_is_in_two_tables():
    assert len(KNOWN) == len(HONOURED) + len(IRRELEVANT) + len(REFUSED)


def test_the_default_of_a_refused_field_is_fine():
    defaults = ReformerConfig().to_dict()

    assert all(defaults.get(name) in allowed for name, (allowed, _) in REFUSED.items())


@pytest.mark.parametrize(
    "override",
    [
        {"tie_word_embeddings": True},
        {"chunk_size_feed_forward": 8},
        {"chunk_size_lm_head": 8},
        {"use_cache": False},
        {"problem_type": "regression"},
        {"dtype": "float16"},
    ],
)
def test_irrelevant_fields_do_not_change_eager(override):
    assert override.keys() <= IRRELEVANT.keys()
    ids = torch.arange(32)[None] % 50

    with torch.no_grad():
        expected = build_model(config_t(is_decoder=True), ReformerModelWithLMHead)(ids).logits
        got = build_model(config_t(is_decoder=True, **override), ReformerModelWithLMHead)(ids).logits

    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
