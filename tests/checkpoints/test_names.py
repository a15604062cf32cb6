from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.config import TASK_OF_ARCHITECTURE, read_config, spec_from_config
from reformer_export.checkpoints.names import (
    expected_shapes,
    heads_among,
    normalise_names,
    select_tensors,
)
from reformer_export.checkpoints.weights import TensorHeader
from tests.hf_models import build_model, config_t, needs_separate_bias

FOLDER = Path("checkpoint")

VARIANTS = {
    "axial": {},
    "learned": {"axial_pos_embds": False},
    "narrow heads": {"attention_head_size": 3, "num_attention_heads": 5, "feed_forward_size": 7},
    "lsh only": {"attn_layers": ["lsh", "lsh", "lsh"]},
    "labels": {"num_labels": 5},
}


def spec_and_model(tmp_path, architecture, overrides):
    config = config_t(is_decoder=architecture == "ReformerModelWithLMHead", **overrides)
    config.save_pretrained(tmp_path)
    spec, _ = spec_from_config(read_config(tmp_path), TASK_OF_ARCHITECTURE[architecture], LoadOptions())
    return spec, build_model(config, getattr(transformers, architecture))


@needs_separate_bias
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", TASK_OF_ARCHITECTURE)
def test_names_and_shapes_are_those_of_transformers(tmp_path, architecture, variant):
    if architecture == "ReformerForQuestionAnswering" and variant == "labels":
        pytest.skip("question answering has two labels")
    spec, model = spec_and_model(tmp_path, architecture, VARIANTS[variant])

    expected = {name.removeprefix("reformer."): tuple(t.shape) for name, t in model.state_dict().items()}
    expected.pop("lm_head.bias", None)

    assert expected_shapes(spec) == expected


@pytest.fixture
def model(tmp_path):
    """The spec of a causal language model, and the headers of a file that has its tensors."""
    spec, _ = spec_and_model(tmp_path, "ReformerModelWithLMHead", {})
    return spec, {
        ("reformer." * (not name.startswith("lm_head")) + name): TensorHeader(
            shape, "float32", FOLDER / "file"
        )
        for name, shape in expected_shapes(spec).items()
    }


def select(spec, headers):
    return select_tensors(FOLDER, spec, normalise_names(FOLDER, headers), headers)


def test_all_tensors_are_found(model):
    selection = select(*model)

    assert selection.stored.keys() == expected_shapes(model[0]).keys()
    assert selection.stored["encoder.layer_norm.bias"] == "reformer.encoder.layer_norm.bias"
    assert (selection.dropped, selection.ignored) == ((), ())


def test_missing_tensors_are_refused(refused, model):
    spec, headers = model
    del headers["reformer.encoder.layers.1.attention.output.dense.weight"]
    del headers["reformer.encoder.layer_norm.bias"]

    with refused("no tensor 'encoder.layers.1.attention.output.dense.weight' and 1 more", "2 layers"):
        select(spec, headers)


def test_unexpected_tensors_are_refused(refused, model):
    spec, headers = model
    headers["reformer.encoder.layers.2.attention.layer_norm.bias\n"] = TensorHeader((16,), "float32", FOLDER)

    with refused("unexpected tensor 'encoder.layers.2.attention.layer_norm.bias\\n',"):
        select(spec, headers)


def test_another_shape_is_refused(refused, model):
    spec, headers = model
    for name in ("lm_head.decoder.weight", "lm_head.decoder.bias"):
        headers[name] = TensorHeader((50, 16), "float32", FOLDER / "file")

    with refused("shape [50, 16] of lm_head.decoder.weight and 1 more", "expected [50, 32]"):
        select(spec, headers)


@pytest.mark.parametrize("dtype", ["I64", "int64", "bool", "F8_E4M3", "float8_e4m3fn", "complex64"])
def test_other_types_are_refused(refused, model, dtype):
    spec, headers = model
    headers["lm_head.decoder.bias"] = TensorHeader((50,), dtype, FOLDER / "file")

    with refused(f"type {dtype} of lm_head.decoder.bias", "float32"):
        select(spec, headers)


def test_buffers_of_old_checkpoints_are_ignored(model):
    spec, headers = model
    old = [
        f"reformer.encoder.layers.{layer}.attention.self_attention.{name}"
        for layer in (0, 1)
        for name in ("self_mask_value_float16", "self_mask_value_float32", "mask_value_float16", "mask_value")
    ]
    headers |= {name: TensorHeader((), "float32", FOLDER) for name in old}

    assert set(select(spec, headers).ignored) == {name.removeprefix("reformer.") for name in old}


def test_the_bias_of_the_head_has_two_names(model):
    spec, headers = model
    both = headers | {"lm_head.bias": headers["lm_head.decoder.bias"]}
    old = {name: header for name, header in both.items() if name != "lm_head.decoder.bias"}

    assert select(spec, both).stored["lm_head.decoder.bias"] == "lm_head.decoder.bias"
    assert select(spec, both).ignored == ("lm_head.bias",)
    assert select(spec, old).stored["lm_head.decoder.bias"] == "lm_head.bias"
    assert select(spec, old).ignored == ()


def test_a_head_is_dropped_for_feature_extraction_only(refused, tmp_path, model):
    _, headers = model
    base, _ = spec_and_model(tmp_path, "ReformerModel", {})

    assert select(base, headers).dropped == ("lm_head.decoder.bias", "lm_head.decoder.weight")

    classifier, _ = spec_and_model(tmp_path, "ReformerForSequenceClassification", {})
    with refused("no tensor 'classifier.dense.weight' and 3 more"):
        select(classifier, headers)


def test_one_tensor_under_two_names_is_refused(refused):
    with refused("both 'x.weight' and 'reformer.x.weight'"):
        normalise_names(FOLDER, ["x.weight", "reformer.x.weight"])


def test_heads():
    assert heads_among(["encoder.x", "lm_head.bias", "lm_head.decoder.weight"]) == ("lm_head",)
    assert heads_among(["encoder.x", "lm_headless.bias"]) == ()
