from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.modeling import build_model
from reformer_export.reference.eager import EagerReformer
from tests.configurations import random_inputs, reformer_configs
from tests.hf_models import build_model as build_hf_model
from tests.hf_models import config_t, save_model

HEADS = {
    "feature-extraction": transformers.ReformerModel,
    "text-generation": transformers.ReformerModelWithLMHead,
    "fill-mask": transformers.ReformerForMaskedLM,
    "text-classification": transformers.ReformerForSequenceClassification,
    "question-answering": transformers.ReformerForQuestionAnswering,
}


def assert_matches_eager(canonical, eager, ids, mask, atol=1e-4):
    """Every unmasked element of every output, against unpatched eager."""
    expected = eager.run(ids, mask).outputs
    with torch.no_grad():
        outputs = canonical(torch.from_numpy(ids), torch.from_numpy(mask))
    for (name, reference), output in zip(expected.items(), outputs, strict=True):
        assert output.shape == reference.shape, name
        if reference.shape[:2] == mask.shape:
            reference, output = reference[mask == 1], output[torch.from_numpy(mask) == 1]
        np.testing.assert_allclose(output.numpy(), reference, atol=atol, rtol=2e-5, err_msg=name)


@settings(max_examples=80, deadline=None)
@given(config=reformer_configs(), seed=st.integers(0, 2**32 - 1))
def test_matches_eager_for_random_configurations(config, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        build_hf_model(config, transformers.ReformerModel).save_pretrained(folder)
        checkpoint = load_huggingface(folder, LoadOptions())
        eager = EagerReformer(Path(folder), checkpoint.spec)
    canonical = build_model(checkpoint.spec, checkpoint.weights)
    for _ in range(4):
        length, batch = int(rng.integers(1, checkpoint.spec.max_length + 1)), int(rng.integers(1, 4))
        ids, mask = random_inputs(rng, config.vocab_size, length, batch, masked=bool(rng.integers(2)))
        assert_matches_eager(canonical, eager, ids, mask)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("slices", [1, 4])
def test_every_head_matches_eager(tmp_path, task, slices):
    config = config_t(is_decoder=task == "text-generation", num_labels=2 if "question" in task else 5)
    folder = save_model(tmp_path, config, HEADS[task])
    checkpoint = load_huggingface(str(folder), LoadOptions(feed_forward_slices=slices))
    assert checkpoint.spec.task == task
    canonical = build_model(checkpoint.spec, checkpoint.weights)
    eager = EagerReformer(folder, checkpoint.spec)
    for length in (1, 8, 20, 64):
        ids, mask = random_inputs(np.random.default_rng(length), 50, length, 2, masked=True)
        assert_matches_eager(canonical, eager, ids, mask)


def test_logits_last_are_those_of_the_last_attended_token(tmp_path):
    folder = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    both = {logits: load_huggingface(str(folder), LoadOptions(logits=logits)) for logits in ("all", "last")}
    models = {name: build_model(c.spec, c.weights) for name, c in both.items()}
    normed = {name: gather_outputs(model.encoder.layer_norm) for name, model in models.items()}
    for length in (1, 7, 16, 20, 33):
        ids, mask = random_inputs(np.random.default_rng(length), 50, length, 3, masked=True)
        for side in (mask, mask[:, ::-1].copy()):
            given = torch.from_numpy(ids), torch.from_numpy(side)
            with torch.no_grad():
                outputs = {name: model(*given)[0] for name, model in models.items()}
            last = torch.from_numpy((side * np.arange(length)).max(1))
            assert outputs["last"].shape == (3, 1, 50)
            assert torch.equal(normed["last"][-1][:, 0], normed["all"][-1][torch.arange(3), last])
            torch.testing.assert_close(outputs["last"][:, 0], outputs["all"][torch.arange(3), last])


def gather_outputs(module):
    """What the module will result in, call by call."""
    outputs = []
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


@pytest.mark.parametrize("length", [16, 20, 24, 32, 48, 64, 1, 2, 7, 8, 9])
def test_case_1_2_3_5_of_configuration_t(tmp_path, length):
    for seed in (3, None):
        config = config_t(hash_seed=seed)
        folder = save_model(tmp_path / str(seed), config, transformers.ReformerModel)
        checkpoint = load_huggingface(str(folder), LoadOptions())
        canonical = build_model(checkpoint.spec, checkpoint.weights)
        eager = EagerReformer(folder, checkpoint.spec)
        ids = np.arange(length)[None] % 50
        assert_matches_eager(canonical, eager, ids, np.ones_like(ids), atol=1e-5)


def test_case_1_unseeded_eager_differs_from_itself():
    model = build_hf_model(config_t(hash_seed=None), transformers.ReformerModel)
    ids = torch.arange(32)[None] % 50
    with torch.no_grad():
        first, second = (model(ids, use_cache=False)[0] for _ in range(2))
    assert (first - second).abs().max() > 1e-4


def test_case_3_chunks_4_and_6(tmp_path):
    config = config_t(
        local_attn_chunk_length=4, lsh_attn_chunk_length=6, axial_pos_shape=[8, 9], max_position_embeddings=72
    )
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    assert checkpoint.spec.padded_length(10) == 12
    canonical = build_model(checkpoint.spec, checkpoint.weights)
    eager = EagerReformer(folder, checkpoint.spec)
    for length in range(1, 25):
        ids = np.arange(length)[None] % 50
        assert_matches_eager(canonical, eager, ids, np.ones_like(ids), atol=1e-5)


@pytest.mark.parametrize("kind", ["local", "lsh"])
def test_windows_wider_than_the_sequence_match_eager(tmp_path, kind):
    """Eager's slices wrap to the chunk itself when a neighbour is farther away than there are chunks."""
    config = config_t(attn_layers=[kind], num_hashes=1)
    setattr(config, f"{kind}_num_chunks_before", 3)
    setattr(config, f"{kind}_num_chunks_after", 4)
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    canonical = build_model(checkpoint.spec, checkpoint.weights)
    eager = EagerReformer(folder, checkpoint.spec)
    for length in (9, 16, 17, 24, 32, 40, 64):
        ids, mask = random_inputs(np.random.default_rng(length), 50, length, 2, masked=length % 2 == 1)
        assert_matches_eager(canonical, eager, ids, mask)


def test_axial_table_is_never_materialised(tmp_path):
    """A grid of 2^20 positions with hidden size 16 would take 64 MB; the model holds its rows only."""
    config = config_t(axial_pos_shape=[1024, 1024], max_position_embeddings=2**20)
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    canonical = build_model(checkpoint.spec, checkpoint.weights)
    elements = sum(t.numel() for t in (*canonical.parameters(), *canonical.buffers()))
    assert elements < 50_000


def test_missing_weight_is_named(tmp_path):
    from reformer_export.errors import CheckpointError

    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    weights = dict(checkpoint.weights)
    del weights["encoder.layer_norm.weight"]
    with pytest.raises(CheckpointError, match=r"encoder\.layer_norm\.weight"):
        build_model(checkpoint.spec, weights)
