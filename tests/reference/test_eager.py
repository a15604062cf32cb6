from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.reference.eager import EagerReformer, open_eager, recorded_rotations
from reformer_export.runtimes import load
from tests.export.test_export import export
from tests.hf_models import build_model, config_t, needs_separate_bias, save_model


def test_eager_is_what_transformers_computes(tmp_path):
    """The oracle adds hooks and seeds, and nothing else: its outputs are bit-equal to a plain call."""
    config = config_t()
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    eager = EagerReformer(folder, load_huggingface(str(folder), LoadOptions()).spec)
    ids = np.arange(20)[None] % 50
    state = torch.get_rng_state()
    got = eager.run(ids, np.ones_like(ids))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        plain = build_model(config, transformers.ReformerModel)(torch.from_numpy(ids), use_cache=False)[0]
    assert np.array_equal(got.outputs["last_hidden_state"], plain.numpy())
    assert got.buckets[1].shape == (1, 2, 2, 20)
    assert got.buckets[1].max() < 4


@needs_separate_bias
def test_a_head_whose_bias_has_the_old_name_only(tmp_path, capfd):
    """Eager computes with the bias that was exported; transformers reads it and leaves it unused."""
    folder = save_model(tmp_path, config_t(), transformers.ReformerForMaskedLM)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.decoder.bias"]
    weights["lm_head.bias"] = torch.arange(50.0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    export(folder, tmp_path / "out")
    capfd.readouterr()
    eager = open_eager(folder, read_manifest(tmp_path / "out"))
    assert capfd.readouterr() == ("", "")
    ids = np.arange(20)[None] % 50
    got = eager.run(ids, np.ones_like(ids)).outputs["logits"]
    without = EagerReformer(folder, eager.spec).run(ids, np.ones_like(ids)).outputs["logits"]
    np.testing.assert_allclose(got - without, np.broadcast_to(np.arange(50.0), got.shape), atol=1e-4)
    (note,) = eager.notes
    assert (
        "leaves the trained bias of the language-model head out (its logits are off by up to 4.9e+01)" in note
    )


@pytest.mark.parametrize(
    "model_class", [transformers.ReformerForMaskedLM, transformers.ReformerModelWithLMHead]
)
@pytest.mark.parametrize("stored", ["lm_head.bias", "lm_head.decoder.bias"])
def test_a_trained_bias_counts_whatever_release_is_installed(tmp_path, request, model_class, stored):
    """The export has it, and so has eager where the installed release leaves it out; it says so."""
    folder = save_model(
        tmp_path, config_t(is_decoder=model_class is transformers.ReformerModelWithLMHead), model_class
    )
    weights = load_file(folder / "model.safetensors")
    bias = torch.linspace(-2, 3, 50)
    save_file({**without_bias(weights), stored: bias}, folder / "model.safetensors", {"format": "pt"})
    request.getfixturevalue("head_without_bias")
    export(folder, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    eager = open_eager(folder, manifest)
    ids = np.arange(20)[None] % 50
    got = eager.run(ids, np.ones_like(ids)).outputs["logits"]
    plain = EagerReformer(folder, manifest.spec)
    without = plain.run(ids, np.ones_like(ids)).outputs["logits"]
    np.testing.assert_allclose(got - without, np.broadcast_to(bias.numpy(), got.shape), atol=1e-5)
    with load(tmp_path / "out") as model:
        np.testing.assert_allclose(model.run(ids)["logits"], got, atol=1e-5)
    assert plain.notes == ()
    assert f"transformers {transformers.__version__} leaves the trained bias" in eager.notes[0]


def test_a_bias_that_changes_nothing_is_not_spoken_of(tmp_path, head_without_bias):
    folder = save_model(tmp_path, config_t(), transformers.ReformerForMaskedLM)
    weights = without_bias(load_file(folder / "model.safetensors"))
    save_file({**weights, "lm_head.bias": torch.zeros(50)}, folder / "model.safetensors", {"format": "pt"})
    export(folder, tmp_path / "out")
    assert open_eager(folder, read_manifest(tmp_path / "out")).notes == ()


def without_bias(weights):
    return {name: value for name, value in weights.items() if "bias" not in name or "lm_head" not in name}


def test_rotations_are_those_that_eager_draws(tmp_path):
    folder = save_model(tmp_path, config_t(hash_seed=7), transformers.ReformerModel)
    spec = load_huggingface(str(folder), LoadOptions()).spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        drawn = torch.randn(spec.rotations_shape(1))
    assert np.array_equal(recorded_rotations(spec, 1), drawn.numpy())


def test_transformers_is_silent_here_and_as_loud_as_before_elsewhere(tmp_path, capfd):
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    spec = load_huggingface(str(folder), LoadOptions()).spec
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    capfd.readouterr()
    eager = EagerReformer(folder, spec)
    eager.run(np.ones((1, 9), np.int64), np.ones((1, 9), np.int64))  # padded, of which eager would tell
    assert capfd.readouterr() == ("", "")
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before
