"""Checkpoints of reformer-pytorch's Reformer and LSHSelfAttention: keywords, names, and refusals."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.checkpoints.lucidrains_keywords import CLASSES
from tests.checkpoints.test_lucidrains import load, refusal
from tests.edits import change_json
from tests.lucidrains import SMALL, SMALL_ATTENTION, SMALL_REFORMER, require_package, save_model

OURS = {"max_seq_len"}
"""Keywords of a model of vectors that the package does not have."""


@pytest.mark.parametrize("name", ["Reformer", "LSHSelfAttention"])
def test_every_keyword_of_the_constructor_is_in_one_table(name: str) -> None:
    require_package()
    import reformer_pytorch

    known = CLASSES[name]
    parameters = dict(inspect.signature(getattr(reformer_pytorch, name)).parameters)
    if parameters.pop("kwargs", None) is not None:
        inner = inspect.signature(reformer_pytorch.LSHAttention).parameters
        given = {"allow_duplicate_attention", "attend_across_buckets", "n_hashes"} | parameters.keys()
        parameters |= {key: value for key, value in inner.items() if key not in given}
    assert parameters.keys() <= known.defaults.keys() | known.ignored.keys() | known.refused.keys()
    assert known.defaults.keys() - parameters.keys() == OURS
    assert known.ignored.keys() <= parameters.keys()
    assert not known.defaults.keys() & known.ignored.keys()
    for key, value in known.defaults.items():
        if key not in OURS:
            assert parameters[key].default in (value, inspect.Parameter.empty), key
    for key in known.refused.keys() & parameters.keys():
        assert parameters[key].default in (*known.refused[key][0], ()), key


@pytest.mark.parametrize("keywords", [SMALL_REFORMER, SMALL_ATTENTION])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "Autopadder"])
def test_a_wrapper_is_said_or_seen_in_the_names(
    tmp_path: Path, keywords: dict[str, Any], prefix: str, wrapper: str | None
) -> None:
    file, config = save_model(tmp_path, keywords, wrapper, says_wrapper=False)
    state = torch.load(file, weights_only=True)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, file)
    spec = load(file, config)
    assert spec.is_padded == (wrapper is not None)
    assert (spec.architecture, spec.vocab_size, spec.hidden_size) == (keywords["class"], 0, 32)
    assert spec.input_names == ("inputs_embeds", "attention_mask")
    change_json(config, wrapper="Autopadder", dim=...)
    assert load(file, config).is_padded
    change_json(config, wrapper="TrainingWrapper")
    assert "wrapper: got 'TrainingWrapper', expected Autopadder, or null" in refusal(file, config)


def test_what_follows_from_other_keywords(tmp_path: Path) -> None:
    spec = load(*save_model(tmp_path, SMALL_ATTENTION, None))
    assert (spec.dense_threshold, spec.head_size, len(spec.layers), spec.feed_forward_size) == (4, 8, 1, 0)
    assert spec.describe_lengths().startswith("up to 4, or multiples of 2 x bucket_size = 8 up to 64")
    more = {"depth": 3, "ff_mult": 2, "ff_glu": True, "num_mem_kv": 2, "use_scale_norm": True}
    file, config = save_model(tmp_path, SMALL_REFORMER | more, None)
    given = load(file, config)
    assert (given.dense_threshold, given.feed_forward_size, given.norm) == (0, 64, "scale")
    change_json(config, depth=..., dim=...)
    assert load(file, config) == given


def test_the_greatest_length_is_chosen(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL_ATTENTION, None)
    change_json(config, max_seq_len=...)
    assert "add it or give `max_length`" in refusal(file, config)
    assert load(file, config, max_length=41).max_length == 48
    assert load(file, config, max_length=3).max_length == 3
    change_json(config, max_seq_len=40)
    assert load(file, config).max_length == 40
    assert load(file, config, max_length=16).max_length == 16
    assert "at most 40" in refusal(file, config, max_length=41)


def test_the_source_has_every_keyword(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL_ATTENTION | {"return_attn": True, "dropout": 0.1}, None)
    source = load_lucidrains(str(file), config, LoadOptions()).source
    assert source["class"] == "LSHSelfAttention"
    assert source["keywords"].keys() == CLASSES["LSHSelfAttention"].defaults.keys()
    assert source["ignored_keywords"].keys() == {"return_attn", "dropout"}
    assert str(tmp_path) not in json.dumps(source)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no class": (
        SMALL_REFORMER,
        {"class": ...},
        "class: got none, which means ReformerLM, expected Reformer, as there is the tensor layers.blocks.0",
    ),
    "one layer": (
        SMALL_REFORMER,
        {"class": "LSHSelfAttention", "depth": ..., "causal": True},
        "class: got LSH",
    ),
    "layers": (
        SMALL_ATTENTION,
        {"class": "Reformer"},
        "class: got Reformer, expected LSHSelfAttention, as there is the tensor toqk.weight",
    ),
    "words": (SMALL, {"class": "Reformer", "num_tokens": ...}, "expected ReformerLM, as .*token_emb.weight"),
    "dim": (SMALL_ATTENTION, {"dim": 64}, r"dim: got 64, expected 32, as toqk.weight is \[32, 32\]"),
    "heads": (
        SMALL_ATTENTION,
        {"heads": 2, "dim_head": 8},
        "got 2 x 8 = 16, expected 32 rows, as toqk.weight",
    ),
    "divisor": (SMALL_ATTENTION, {"heads": 5}, "heads: got 5, expected a divisor of dim = 32"),
    "depth": (
        SMALL_REFORMER,
        {"depth": 3},
        "depth: got 3, expected 2, as the last layer has layers.*blocks.1",
    ),
    "memory": (SMALL_ATTENTION, {"num_mem_kv": 3}, "num_mem_kv: got 3, expected 0, as there is no mem_kv"),
    "one value": (SMALL_ATTENTION, {"one_value_head": True}, "one_value_head: got True, expected 32 rows"),
    "of another class": (SMALL_ATTENTION, {"ff_glu": True}, "ff_glu: got a keyword that it does not have"),
    "layer's name": (SMALL_ATTENTION, {"lsh_dropout": 0.1}, "expected keyword arguments of LSHSelfAttention"),
    "words' keyword": (SMALL_REFORMER, {"emb_dim": 32}, "emb_dim: got a keyword that it does not have"),
    "keys": (SMALL_ATTENTION, {"keys": [1]}, "keys: got .*, as it is an argument of a call"),
    "context": (SMALL_REFORMER, {"context_mask": True}, "context_mask: got True"),
    "in buckets": (SMALL_ATTENTION, {"attend_across_buckets": False}, "stays in a bucket is not supported"),
    "duplicates": (SMALL_ATTENTION, {"allow_duplicate_attention": False}, "counting each pair"),
    "one hash": (SMALL_ATTENTION, {"rehash_each_round": False}, "several buckets from one hash"),
    "twins": (SMALL_ATTENTION, {"twin_attention": True}, "version 1.4.4 has none"),
    "products": (SMALL_REFORMER, {"full_attn_thres": None}, "full_attn_thres: got None, expected an integer"),
    "heads that hash": (SMALL_ATTENTION, {"n_local_attn_heads": 4}, "expected less than heads = 4"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_json_that_does_not_fit(tmp_path: Path, name: str) -> None:
    keywords, changes, expected = CONTRADICTIONS[name]
    file, config = save_model(tmp_path, keywords, None)
    change_json(config, **changes)
    line = refusal(file, config)
    assert re.search(expected, line), line


def test_a_module_of_somebody_s_own(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL_ATTENTION, None)
    state = torch.load(file, weights_only=True)
    torch.save({f"attn.{name}": tensor for name, tensor in state.items()}, file)
    assert "give its file, of that module alone" in refusal(file, config)
    torch.save(state | {"head.weight": torch.ones(3)}, file)
    assert "the tensor 'head.weight', expected only tensors" in refusal(file, config)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL_ATTENTION, None)
    assert "task: got text-generation" in refusal(file, config, task="text-generation")
    assert "logits: got last" in refusal(file, config, logits="last")
    assert load(file, config, task="feature-extraction", num_hashes=2, hash_seed=3).layers[0].num_hashes == 2  # type: ignore[union-attr]
