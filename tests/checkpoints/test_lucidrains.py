"""Checkpoints of reformer-pytorch: what is read, and what is refused in one line."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.checkpoints.lucidrains_keywords import DEFAULTS, IGNORED, REFUSED
from reformer_export.errors import (
    CheckpointError,
    InputError,
    MissingDependencyError,
    ReformerExportError,
    SpecError,
)
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.product_keys_spec import ProductKeysSpec
from reformer_export.reference.lucidrains import EagerLucidrains
from tests.edits import change_json
from tests.lucidrains import SMALL, require_package, save_model


def load(file: Path, config: Path, **options: Any) -> LucidrainsSpec:
    spec = load_lucidrains(str(file), config, LoadOptions(**options)).spec
    assert isinstance(spec, LucidrainsSpec)
    return spec


def refusal(file: Path, config: Path, **options: Any) -> str:
    """The one line that loading fails with."""
    with pytest.raises(ReformerExportError) as caught:
        load(file, config, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.got
    assert caught.value.expected
    assert caught.value.fix
    return text


def test_every_keyword_of_the_constructor_is_in_one_table() -> None:
    require_package()
    from reformer_pytorch import ReformerLM

    parameters = inspect.signature(ReformerLM).parameters
    known = DEFAULTS.keys() | IGNORED.keys() | REFUSED.keys()
    assert parameters.keys() <= known
    assert not DEFAULTS.keys() & IGNORED.keys()
    for name, value in DEFAULTS.items():
        assert parameters[name].default in (value, inspect.Parameter.empty)
    for name in REFUSED.keys() & parameters.keys():
        assert parameters[name].default in (*REFUSED[name][0], ())


@pytest.mark.parametrize("wrapper", [None, "Autopadder", "TrainingWrapper"])
@pytest.mark.parametrize("says", [True, False])
def test_a_wrapper_is_said_or_seen_in_the_names(tmp_path: Path, wrapper: str | None, says: bool) -> None:
    spec = load(*save_model(tmp_path, SMALL, wrapper, says_wrapper=says))
    assert spec.is_padded == (wrapper is not None)
    assert (spec.max_length, spec.task, spec.embedding_size) == (64, "text-generation", 32)


def test_a_bare_state_dict_may_be_of_a_model_that_is_wrapped(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL, None)
    assert not load(file, config).is_padded
    change_json(config, wrapper="TrainingWrapper")
    assert load(file, config).is_padded


@pytest.mark.parametrize("key", ["model", "model_state_dict"])
def test_a_state_dict_among_other_things(tmp_path: Path, key: str) -> None:
    file, config = save_model(tmp_path, SMALL)
    state = {f"module.{name}": tensor for name, tensor in torch.load(file, weights_only=True).items()}
    expected = load_lucidrains(str(file), config, LoadOptions())
    torch.save({key: state, "step": 3, "optimizer": {"lr": 0.1}}, file)
    found = load_lucidrains(str(file), config, LoadOptions())
    assert found.spec == expected.spec
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def save_each_tensor_once(file: Path) -> Path:
    """The state dict of `file` as save_model of safetensors writes it: of tensors that share memory, one."""
    state = torch.load(file, weights_only=True)
    names = {state[name].data_ptr(): name for name in sorted(state)}
    path = file.with_name("model.safetensors")
    save_file({name: state[name].contiguous() for name in names.values()}, path)
    return path


def test_safetensors_with_one_name_for_each_tensor(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL | {"depth": 3, "weight_tie": True})
    expected = load_lucidrains(str(file), config, LoadOptions())
    found = load_lucidrains(str(save_each_tensor_once(file)), config, LoadOptions())
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_what_the_tensors_say_need_not_be_given(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL | {"absolute_position_emb": True})
    given = load(file, config)
    change_json(config, num_tokens=..., dim=..., depth=..., max_seq_len=...)
    assert load(file, config) == given


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "heads": ({}, {"heads": 2}, r"heads x dim_head: got 2 x 8 = 16, expected 32 rows, as .*toqk.weight has"),
    "depth": ({}, {"depth": 3}, "depth: got 3, expected 2, as the last layer has reformer.layers"),
    "dim": ({}, {"dim": 64}, r"dim: got 64, expected 32, as norm.weight is \[32\]"),
    "num_tokens": ({}, {"num_tokens": 51}, "num_tokens: got 51, expected 50, as token_emb.weight"),
    "glu": ({}, {"ff_glu": True}, "ff_glu: got True, expected False"),
    "glu default": ({"ff_glu": True}, {"ff_glu": ...}, "ff_glu: got none, which means False, expected True"),
    "ff_mult": ({}, {"ff_mult": 2}, "ff_mult: got 2, expected 4"),
    "memory": ({"num_mem_kv": 3}, {"num_mem_kv": ...}, "num_mem_kv: got none, which means 0, expected 3"),
    "norm": ({}, {"use_scale_norm": True}, "use_scale_norm: got True, expected False"),
    "gate": (
        {"use_rezero": True},
        {"use_rezero": ...},
        "use_rezero: got none, which means False, expected True",
    ),
    "positions": (
        {"fixed_position_emb": True},
        {"fixed_position_emb": False},
        "got none of them, expected fixed_position_emb true, as there is pos_emb.inv_freq",
    ),
    "emb_dim": ({"emb_dim": 16}, {"emb_dim": None}, "emb_dim: got .*32, expected 16"),
    "head": ({}, {"return_embeddings": True}, "return_embeddings: got True, expected False"),
    "one value": ({}, {"one_value_head": True}, "one_value_head: got True, expected 32 rows"),
    "tied embedding": ({}, {"weight_tie_embedding": True}, "weight_tie_embedding: got True, expected False"),
    "memories": (
        {"pkm_layers": [2]},
        {"pkm_layers": ...},
        r"pkm_layers: got none, which means \(\), expected \[2\], as there is .*blocks.1.g.net.fn.keys",
    ),
    "other memories": (
        {"pkm_layers": [2], "depth": 3},
        {"pkm_layers": [2, 3, 7]},
        r"pkm_layers: got \[2, 3\], expected \[2\], as there is .*blocks.2.g.net.fn.fn.w1.weight",
    ),
    "product keys": (
        {"pkm_layers": [1], "pkm_num_keys": 40},
        {"pkm_num_keys": ...},
        r"pkm_num_keys: got none, which means 128, expected 40, as .*g.net.fn.keys is \[4, 40, 2, 128\]",
    ),
    "wrapper": (
        {},
        {"wrapper": None},
        "wrapper: got None, expected TrainingWrapper, as .* begin with net.net.",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_json_that_contradicts_the_tensors(tmp_path: Path, name: str) -> None:
    more, changes, expected = CONTRADICTIONS[name]
    file, config = save_model(tmp_path, SMALL | more)
    change_json(config, **changes)
    line = refusal(file, config)
    assert re.search(expected, line), line
    assert "kwargs.json" in line


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"n_buckets": 3}, "n_buckets: got a keyword that it does not have"),
    "no length": ({"max_seq_len": ...}, "max_seq_len: got none, expected the greatest length"),
    "a memory's layer": ({"pkm_layers": [0]}, r"pkm_layers: got \[0\], expected a list of integers from 1"),
    "in buckets": ({"lsh_attend_across_buckets": False}, "attention that stays in a bucket"),
    "duplicates": ({"lsh_allow_duplicate_attention": False}, "counting each pair"),
    "a class": ({"class": "LSHAttention"}, "expected one of ReformerLM, Reformer, LSHSelf.*has no weights"),
    "an encoder": ({"class": "ReformerEncDec"}, "decoder attends to is not supported"),
    "a wrapper": ({"wrapper": "Padder"}, "wrapper: got 'Padder', expected Autopadder or TrainingWrapper"),
    "a text": ({"causal": "yes"}, "causal: got 'yes', expected true or false"),
    "a bool": ({"heads": True}, "heads: got True, expected an integer from 1"),
    "a huge size": ({"bucket_size": 10**12}, "bucket_size: got 1000000000000, expected an integer from 1"),
    "many layers": ({"depth": 10**9}, "depth: got 1000000000, expected an integer from 1 to 1024"),
    "an activation": ({"ff_activation": "Mish"}, "ff_activation: got 'Mish', expected one of"),
    "local heads": ({"n_local_attn_heads": 4}, "n_local_attn_heads: got 4, expected less than heads = 4"),
    "a threshold": ({"full_attn_thres": None}, "full_attn_thres: got None, expected an integer from 0"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_keywords_that_are_refused(tmp_path: Path, name: str) -> None:
    changes, expected = REFUSALS[name]
    file, config = save_model(tmp_path, SMALL)
    change_json(config, **changes)
    assert re.search(expected, refusal(file, config))


@pytest.mark.parametrize("number", [2, [2], [2, 9]])
def test_memories_in_the_ways_that_the_package_takes(tmp_path: Path, number: object) -> None:
    """`pkm_layers` counts from 1, and a number above the depth means nothing."""
    file, config = save_model(tmp_path, SMALL | {"pkm_layers": [2], "pkm_num_keys": 32})
    change_json(config, pkm_layers=number)
    assert load(file, config).product_keys == ProductKeysSpec((1,), 32)


def test_tied_memories_in_safetensors_with_one_name_each(tmp_path: Path) -> None:
    """What shares tensors with another layer has no name of its own, and `pkm_layers` says what it is."""
    file, config = save_model(
        tmp_path, SMALL | {"depth": 4, "weight_tie": True, "pkm_layers": [2, 4], "pkm_num_keys": 32}
    )
    expected = load_lucidrains(str(file), config, LoadOptions())
    keys = [expected.weights[f"encoder.layers.{i}.feed_forward.memory.keys.weight"] for i in (1, 3)]
    assert keys[0].data_ptr() == keys[1].data_ptr()
    found = load_lucidrains(str(save_each_tensor_once(file)), config, LoadOptions())
    assert found.spec == expected.spec
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_memories_of_older_packages(tmp_path: Path) -> None:
    """A batch norm of all 1,024 elements of the queries is one; of 128 it normalises positions."""
    file, config = save_model(tmp_path, SMALL | {"pkm_layers": [1], "pkm_num_keys": 16})
    assert "pkm_num_keys: got 16, expected an integer from 32" in refusal(file, config)
    file, config = save_model(tmp_path, SMALL | {"pkm_layers": [1], "pkm_num_keys": 32}, None)
    state = torch.load(file, weights_only=True)
    for size in (1024, 128):
        older = {name: x for name, x in state.items() if ".g.net.fn.norm." not in name}
        older = {name: x for name, x in older.items() if ".g.fn.norm." not in name}
        norm = torch.nn.BatchNorm1d(size).state_dict()
        for block in ("blocks.0.g.net.fn", "irrev_blocks.0.g.fn"):
            older |= {f"reformer.layers.{block}.norm.fn.{name}": x for name, x in norm.items()}
        torch.save(older, file)
        if size == 1024:
            found = load_lucidrains(str(file), config, LoadOptions())
            assert isinstance(found.spec, LucidrainsSpec)
            assert found.spec.product_keys == ProductKeysSpec((0,), 32, "batch")
            prefix = "encoder.layers.0.feed_forward.memory.query_norm"
            assert sorted(name for name in found.weights if name.startswith(prefix)) == [
                f"{prefix}.bias",
                f"{prefix}.weight",
            ]
            manifest = Manifest(found.spec, "float32", 20, {}, found.source, {}, {})
            with pytest.raises(MissingDependencyError, match=r"product-key-memory>=0\.1\.1,<0\.1\.11"):
                EagerLucidrains(file, manifest)
    assert "a memory of product-key-memory 0.2.0 or 0.2.1" in refusal(file, config)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_files_that_are_no_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, config = save_model(tmp_path, SMALL)
    state = torch.load(file, weights_only=True)
    bad = tmp_path / "bad.pt"
    bad.write_bytes(pickle.dumps({"model": Evil()}))
    assert "tensors only" in refusal(bad, config)
    torch.save({"model": state, "extra": Evil()}, bad)
    assert "tensors only" in refusal(bad, config)
    assert "unpickled" not in capsys.readouterr().out
    torch.save(torch.nn.Linear(2, 2).state_dict(), bad)
    assert "no tensor token_emb.weight" in refusal(bad, config)
    bad.write_bytes(b"nothing")
    assert "pickle that does not load" in refusal(bad, config)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    assert "safetensors" in refusal(bad, config)
    assert "which does not exist" in refusal(tmp_path / "none.pt", config)
    assert "the folder" in refusal(tmp_path, config)
    assert "which does not exist" in refusal(file, tmp_path / "none.json")


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL)
    state = torch.load(file, weights_only=True)
    layer = "net.net.reformer.layers.blocks.1."
    changed = state | {layer + "f.net.norm.bias": torch.zeros(31)}
    torch.save(changed, file)
    assert r"f.net.norm.bias of shape [31], expected [32]" in refusal(file, config)
    torch.save(state | {"net.net.more": torch.zeros(3)}, file)
    assert "the tensor 'more'" in refusal(file, config)
    torch.save(state | {layer + "g.net.fn.fn.w2.bias": torch.ones(32)}, file)
    assert "which differ, expected equal ones" in refusal(file, config)
    torch.save(state | {layer + "g.net.fn.fn.w2.bias": torch.full((32,), torch.nan)}, file)
    assert "infinite or not a number" in refusal(file, config)
    torch.save({name: x for name, x in state.items() if not name.endswith("w2.bias")}, file)
    assert "no tensor reformer.layers.blocks.0.g.net.fn.fn.w2.bias" in refusal(file, config)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL)
    assert "num_buckets: got (4,), expected none" in refusal(file, config, num_buckets=(4,))
    assert "feed_forward_slices" in refusal(file, config, feed_forward_slices=2)
    assert "revision" in refusal(file, config, revision="main")
    assert "task: got text-classification" in refusal(file, config, task="text-classification")
    assert "max length: got 65 tokens, expected at most 64" in refusal(file, config, max_length=65)
    file, config = save_model(tmp_path / "full", SMALL | {"use_full_attn": True})
    with pytest.raises(InputError, match="hashes nothing"):
        load(file, config, num_hashes=2)
    file, config = save_model(tmp_path / "odd", SMALL | {"n_local_attn_heads": 1, "num_mem_kv": 3})
    with pytest.raises(SpecError, match="a multiple of 2 bucket_size = 8, as reformer-pytorch asserts"):
        load(file, config)
    file, config = save_model(tmp_path / "short", SMALL | {"max_seq_len": 5}, None)
    with pytest.raises(SpecError, match="room for at least one token"):
        load(file, config)


def test_options_that_fit(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL)
    spec = load(file, config, num_hashes=5, hash_seed=7, max_length=20, logits="last")
    assert (spec.max_length, spec.logits) == (20, "last")
    assert spec.rotations_shape(1) == (1, 8, 5, 3)
    assert [layer.hash_seed for layer in spec.layers] == [7, 8]  # type: ignore[union-attr]
    assert load(file, config, task="feature-extraction").output_names == ("last_hidden_state",)
    plain = load(*save_model(tmp_path / "plain", SMALL, None), max_length=20)
    assert plain.max_length == 24


def test_the_source_has_every_keyword_and_no_path(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL | {"ff_chunks": 7, "lsh_dropout": 0.1})
    source = load_lucidrains(str(file), config, LoadOptions()).source
    assert source["keywords"].keys() == DEFAULTS.keys()
    assert source["ignored_keywords"].keys() == {"ff_chunks", "lsh_dropout"}
    assert source["files"].keys() == {"model.pt", "kwargs.json"}
    assert str(tmp_path) not in json.dumps(source)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    from reformer_export.checkpoints import load_huggingface

    file = tmp_path / "model.pt"
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="add `config` for a model of reformer-pytorch"):
        load_huggingface(str(file), LoadOptions())
