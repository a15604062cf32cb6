from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from reformer_export.artifact.files import sha256_of_file
from reformer_export.checkpoints import LoadOptions, expected_shapes, load_huggingface
from reformer_export.checkpoints.config import TASK_OF_ARCHITECTURE
from tests.edits import change_json
from tests.hf_models import build_model, config_t, needs_separate_bias, save_model


def load(folder, **options):
    return load_huggingface(str(folder), LoadOptions(**options))


@needs_separate_bias
@pytest.mark.parametrize("architecture", TASK_OF_ARCHITECTURE)
def test_every_architecture(tmp_path, architecture):
    config = config_t(is_decoder=architecture == "ReformerModelWithLMHead")
    model_class = getattr(transformers, architecture)
    folder = save_model(tmp_path, config, model_class)

    checkpoint = load(folder)

    state = {
        name.removeprefix("reformer."): tensor
        for name, tensor in build_model(config, model_class).state_dict().items()
    }
    state.pop("lm_head.bias", None)
    assert checkpoint.weights.keys() == state.keys() == expected_shapes(checkpoint.spec).keys()
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in state.items())
    assert checkpoint.spec.task == TASK_OF_ARCHITECTURE[architecture]
    assert checkpoint.folder == folder


@needs_separate_bias
def test_the_source(decoder, tmp_path):
    source = load(decoder, num_hashes=4).source

    assert source == {
        "kind": "huggingface",
        "name": "ReformerModelWithLMHead",
        "architecture": "ReformerModelWithLMHead",
        "files": {name: sha256_of_file(decoder / name) for name in ("config.json", "model.safetensors")},
        "ignored_fields": [],
        "stored_dtypes": ["float32"],
        "dropped_weights": [],
        "ignored_weights": ["lm_head.bias"],
        "renamed_weights": {},
        "num_hashes": {"checkpoint": 2, "used": 4, "from": "override"},
        "num_buckets": {"checkpoint": 4, "used": [4], "from": "checkpoint"},
        "hash_seed": {"checkpoint": 3, "used": [3], "from": "checkpoint"},
    }
    assert str(tmp_path) not in json.dumps(source)


def test_a_model_of_the_hub(decoder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(decoder))

    source = load_huggingface("owner/model", LoadOptions(revision="v1")).source

    assert (source["name"], source["revision"], source["commit"]) == ("owner/model", "v1", decoder.name)


@needs_separate_bias
def test_the_head_is_dropped_for_feature_extraction(decoder):
    checkpoint = load(decoder, task="feature-extraction")

    assert checkpoint.spec.task == "feature-extraction"
    assert checkpoint.spec.is_causal
    assert not any(name.startswith("lm_head") for name in checkpoint.weights)
    assert checkpoint.source["dropped_weights"] == [
        "lm_head.bias",
        "lm_head.decoder.bias",
        "lm_head.decoder.weight",
    ]


def test_a_checkpoint_without_an_architecture(decoder):
    change_json(decoder / "config.json", architectures=...)

    checkpoint = load(decoder)

    assert checkpoint.spec.task == "text-generation"
    assert checkpoint.source["architecture"] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints(tmp_path, dtype):
    model = build_model(config_t(), transformers.ReformerModel).to(dtype)
    model.save_pretrained(tmp_path)

    checkpoint = load(tmp_path)

    assert checkpoint.source["stored_dtypes"] == [str(dtype).removeprefix("torch.")]
    for name, tensor in model.state_dict().items():
        assert checkpoint.weights[name].dtype == torch.float32
        assert torch.equal(checkpoint.weights[name], tensor.float())


def test_a_sharded_checkpoint(tmp_path):
    model = build_model(config_t(), transformers.ReformerModel)
    model.save_pretrained(tmp_path, max_shard_size="5KB")

    checkpoint = load(tmp_path)

    assert len(checkpoint.source["files"]) > 3
    assert all(torch.equal(checkpoint.weights[n], t) for n, t in model.state_dict().items())


@needs_separate_bias
def test_a_pickled_checkpoint_of_old_times(refused, decoder):
    """Biases shared under two names and buffers saved: what transformers 2.9 to 4 wrote."""
    weights = load_file(decoder / "model.safetensors")
    weights["lm_head.bias"] = weights["lm_head.decoder.bias"]
    weights["reformer.encoder.layers.1.attention.self_attention.self_mask_value_float16"] = torch.tensor(-1e3)
    torch.save(weights, decoder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (decoder / "model.safetensors").unlink()

    with refused("`allow_pickle=True`"):
        load(decoder)
    checkpoint = load(decoder, allow_pickle=True)
    assert torch.equal(checkpoint.weights["lm_head.decoder.weight"], weights["lm_head.decoder.weight"])
    assert "pytorch_model.bin" in checkpoint.source["files"]


@needs_separate_bias
def test_a_head_whose_bias_has_the_old_name_only(decoder):
    weights = load_file(decoder / "model.safetensors")
    bias = torch.arange(50.0)
    del weights["lm_head.decoder.bias"]
    save_file(weights | {"lm_head.bias": bias}, decoder / "model.safetensors")

    checkpoint = load(decoder)

    assert torch.equal(checkpoint.weights["lm_head.decoder.bias"], bias)
    assert checkpoint.source["renamed_weights"] == {"lm_head.decoder.bias": "lm_head.bias"}


def test_unknown_keys_are_recorded(encoder):
    change_json(encoder / "config.json", output_past=True)

    assert load(encoder).source["ignored_fields"] == ["output_past"]


def test_a_missing_config(refused, encoder):
    (encoder / "config.json").unlink()

    with refused("no config.json"):
        load(encoder)


def test_a_broken_config(refused, encoder):
    (encoder / "config.json").write_text("{")

    with refused("config.json", "not JSON"):
        load(encoder)


def test_an_unknown_architecture(refused, encoder):
    change_json(encoder / "config.json", architectures=["BertModel"])

    with refused("architectures: got ['BertModel']", "ReformerModelWithLMHead"):
        load(encoder)


def test_a_config_of_another_size(refused, encoder):
    change_json(encoder / "config.json", vocab_size=60)

    with refused(
        "shape [50, 16] of embeddings.word_embeddings.weight", "expected [60, 16] as config.json says"
    ):
        load(encoder)


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        (["local"], "unexpected tensor 'encoder.layers.1"),
        (["local", "lsh", "lsh"], "no tensor 'encoder.layers.2"),
    ],
)
def test_a_config_of_another_depth(refused, encoder, layers, part):
    change_json(encoder / "config.json", attn_layers=layers, num_hidden_layers=len(layers))

    with refused(part):
        load(encoder)


def test_a_task_the_checkpoint_cannot_do(refused, encoder):
    with refused("got text-generation", "feature-extraction"):
        load(encoder, task="text-generation")


def test_truncated_weights(refused, encoder):
    file = encoder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with refused("model.safetensors", "no whole safetensors file"):
        load(encoder)


def test_nothing_is_read_before_everything_fits(refused, encoder, monkeypatch):
    monkeypatch.setattr("reformer_export.checkpoints.weights.float32_copy", None)
    change_json(encoder / "config.json", hidden_act="prelu")

    with refused("hidden_act"):
        load(encoder)


def test_a_disk_that_fails(refused, encoder, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("reformer_export.checkpoints.huggingface.sha256_of_file", fail)

    with refused("Input/output error"):
        load(encoder)


def test_the_state_of_the_random_generator_is_left_alone(encoder):
    before = torch.get_rng_state()

    load(encoder)

    assert torch.equal(torch.get_rng_state(), before)
