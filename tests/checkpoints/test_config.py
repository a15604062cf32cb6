from __future__ import annotations

import json

import pytest
import torch
from transformers import ReformerConfig
from transformers.activations import ACT2FN

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.config import (
    SAME_ACTIVATION,
    TASK_OF_ARCHITECTURE,
    choose_task,
    limit_length,
    read_config,
    spec_from_config,
)
from reformer_export.errors import ReformerExportError
from reformer_export.spec import (
    ACTIVATIONS,
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    ModelSpec,
)
from tests.hf_models import config_t


@pytest.fixture
def write_config(tmp_path):
    """Write config.json of configuration T with changes (a value of ... removes the key); its folder."""

    def write(**changes):
        values = config_t(architectures=["ReformerModel"]).to_dict() | changes
        (tmp_path / "config.json").write_text(
            json.dumps({key: value for key, value in values.items() if value is not ...})
        )
        return tmp_path

    return write


def spec_of(folder, task="feature-extraction", **options) -> ModelSpec:
    return spec_from_config(read_config(folder), task, LoadOptions(**options))[0]


def test_the_spec_of_configuration_t(write_config):
    assert spec_of(write_config()) == ModelSpec(
        task="feature-extraction",
        vocab_size=50,
        hidden_size=16,
        num_heads=2,
        head_size=8,
        feed_forward_size=32,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        is_causal=False,
        positions=AxialPositionsSpec((8, 8), (8, 8)),
        max_position_embeddings=64,
        layers=(LocalAttentionSpec(8, 1, 0), LSHAttentionSpec(8, 1, 0, 2, (4,), 3)),
    )


def test_every_honoured_number_reaches_the_spec(write_config):
    folder = write_config(
        local_attn_chunk_length=4,
        local_num_chunks_before=2,
        local_num_chunks_after=1,
        lsh_attn_chunk_length=6,
        lsh_num_chunks_before=0,
        lsh_num_chunks_after=2,
        num_buckets=[2, 6],
        num_hashes=5,
        hash_seed=11,
        axial_pos_embds=False,
        max_position_embeddings=70,
        is_decoder=True,
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
    )

    spec = spec_of(folder, feed_forward_slices=4)

    assert spec.layers == (LocalAttentionSpec(4, 2, 1), LSHAttentionSpec(6, 0, 2, 5, (2, 6), 11))
    assert spec.positions == LearnedPositionsSpec(70)
    assert (spec.is_causal, spec.hidden_act, spec.layer_norm_eps) == (True, "gelu_new", 1e-5)
    assert (spec.max_length, spec.feed_forward_slices) == (60, 4)


def test_missing_fields_get_the_defaults_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "reformer"}')

    spec, choices = spec_from_config(read_config(tmp_path), "feature-extraction", LoadOptions())

    assert len(spec.layers) == len(ReformerConfig().attn_layers)
    assert spec.positions == AxialPositionsSpec((64, 64), (64, 192))
    assert choices["num_buckets"]["from"] == "resolved from max length 4096"
    assert choices["hash_seed"] == {"checkpoint": None, "used": [1, 3, 5], "from": "drawn per layer"}


@pytest.mark.parametrize(
    ("max_length", "factors", "limit"),
    [(None, (16,), 64), (64, (16,), 64), (60, (16,), 64), (17, (4,), 24), (8, (2,), 8), (1, (2,), 1)],
)
def test_num_buckets_none_is_resolved(write_config, max_length, factors, limit):
    folder = write_config(num_buckets=None)

    spec, choices = spec_from_config(
        read_config(folder), "feature-extraction", LoadOptions(max_length=max_length)
    )

    assert spec.layers[1].num_buckets == factors
    assert spec.max_length == limit
    assert choices["num_buckets"] == {
        "checkpoint": None,
        "used": list(factors),
        "from": f"resolved from max length {max_length or 64}",
    }


def test_num_buckets_are_resolved_with_the_positions_of_the_checkpoint(write_config):
    folder = write_config(
        num_buckets=None,
        lsh_attn_chunk_length=2,
        local_attn_chunk_length=2,
        axial_pos_shape=[64, 64],
        max_position_embeddings=4096,
    )

    assert spec_of(folder, max_length=64).layers[1].num_buckets == (64,)  # with 64 positions it is 8 x 8


def test_overrides(write_config):
    folder = write_config(hash_seed=None)

    layer = spec_of(folder, num_hashes=3, num_buckets=(2, 4), hash_seed=9).layers[1]

    assert layer == LSHAttentionSpec(8, 1, 0, 3, (2, 4), 10)


def test_overrides_need_an_lsh_layer(refused, write_config):
    folder = write_config(attn_layers=["local"], num_hidden_layers=1, num_buckets=5)

    assert spec_of(folder).lsh_layers == ()
    for name, value in {"num_hashes": 2, "num_buckets": (4,), "hash_seed": 1}.items():
        with refused("no LSH layer", f"`{name}`"):
            spec_of(folder, **{name: value})


@pytest.mark.parametrize("max_length", range(1, 61))
def test_max_length_is_rounded_up_to_the_padded_length(write_config, max_length):
    spec = spec_of(write_config(lsh_attn_chunk_length=6, local_attn_chunk_length=4))

    limited = limit_length(spec, max_length)

    assert limited.max_length == spec.padded_length(max_length)
    assert limited.positions == spec.positions


@pytest.mark.parametrize("max_length", [57, 63, 64])
def test_max_length_above_the_usable_maximum(refused, write_config, max_length):
    folder = write_config(axial_pos_shape=[7, 9], max_position_embeddings=63)

    assert spec_of(folder).max_length == 56
    with refused(f"max length: got {max_length}", "at most 56", "63 positions", "multiple of 8"):
        spec_of(folder, max_length=max_length)


@pytest.mark.parametrize("name", sorted(SAME_ACTIVATION))
def test_activations_with_two_names_are_the_same(name):
    x = torch.linspace(-6, 6, 241)

    torch.testing.assert_close(ACT2FN[name](x), ACT2FN[SAME_ACTIVATION[name]](x), rtol=0, atol=1e-6)


def test_all_activations_of_the_spec_exist_in_transformers():
    assert all(name in ACT2FN for name in ACTIVATIONS)


BAD_CONFIGS = [
    ({"model_type": "bert"}, "model_type: got 'bert'"),
    ({"model_type": ...}, "model_type: got None"),
    ({"architectures": ["ReformerForTranslation"]}, "ReformerForTranslation"),
    ({"architectures": ["ReformerModel", "ReformerModelWithLMHead"]}, "architectures: got"),
    ({"architectures": "ReformerModel"}, "architectures: got 'ReformerModel'"),
    ({"hidden_size": "big"}, "hidden_size"),
    ({"hidden_size": 15}, "axial_pos_embds_dim"),
    ({"hidden_act": "prelu"}, "hidden_act: got prelu"),
    ({"attn_layers": ["local", "full"]}, "attn_layers: got 'full'"),
    ({"attn_layers": [], "num_hidden_layers": 0}, "attn_layers: got 0 layers"),
    ({"attn_layers": None}, "attn_layers"),
    ({"num_hidden_layers": 1}, "num_hidden_layers: got 1, expected 2"),
    ({"lsh_attn_chunk_length": None}, "lsh_attn_chunk_length: got None"),
    ({"lsh_attn_chunk_length": 0}, "lsh_attn_chunk_length: got 0"),
    ({"local_attn_chunk_length": -8}, "local_attn_chunk_length: got -8"),
    ({"lsh_num_chunks_before": None}, "lsh_num_chunks_before: got None"),
    ({"num_buckets": 5}, "num_buckets: got 5, expected even"),
    ({"num_buckets": [4, 5]}, "num_buckets: got 4x5, expected even"),
    ({"num_buckets": []}, "num_buckets: got no factor"),
    ({"num_buckets": 2**21}, "num_buckets: got 2097152"),
    ({"num_hashes": 0}, "num_hashes: got 0"),
    ({"hash_seed": 2**70}, "hash_seed"),
    ({"pad_token_id": None}, "pad_token_id: got None", "transformers pads"),
    ({"pad_token_id": 50}, "pad_token_id: got 50", "from 0 to 49", "transformers pads"),
    ({"pad_token_id": -1}, "pad_token_id: got -1"),
    ({"axial_pos_shape": [8]}, "axial_pos_shape"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads: got {'0': [1]}"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"per_layer_config": {"0": {"num_hashes": 4}}}, "per_layer_config"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder: got True"),
    ({"num_labels": 10**12}, "num_labels: got 1000000000000"),
    ({"id2label": {"a": "b"}}, "transformers refuses"),
    ({"layer_norm_eps": 2.0}, "layer_norm_eps: got 2.0"),
]


@pytest.mark.parametrize(("changes", "parts"), [(changes, parts) for changes, *parts in BAD_CONFIGS])
def test_bad_configs_are_refused(refused, write_config, changes, parts):
    folder = write_config(**changes)

    with refused(*parts):
        config = read_config(folder)
        spec_from_config(config, choose_task(config, (), "auto"), LoadOptions())


ODD_VALUES = [
    None,
    True,
    -1,
    0,
    2**70,
    0.5,
    float("inf"),
    float("nan"),
    "",
    "x",
    [],
    [0],
    ["x"],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("name", [*sorted(config_t().to_dict()), "num_labels", "torch_dtype", "pruned_heads"])
def test_odd_values_never_end_in_a_traceback(write_config, name):
    for value in ODD_VALUES:
        folder = write_config(**{name: value})
        message = ""
        try:
            config = read_config(folder)
            spec, _ = spec_from_config(config, choose_task(config, (), "auto"), LoadOptions())
            assert spec.max_length >= 1
        except ReformerExportError as error:
            message = str(error)
        assert "\n" not in message


def test_unknown_keys_are_listed(write_config):
    assert read_config(write_config(output_past=True, task_specific_params={})).ignored == (
        "output_past",
        "task_specific_params",
    )


def test_the_task_of_each_architecture(write_config):
    for architecture, task in TASK_OF_ARCHITECTURE.items():
        config = read_config(write_config(architectures=[architecture]))

        assert choose_task(config, (), "auto") == choose_task(config, (), task) == task
        assert choose_task(config, (), "feature-extraction") == "feature-extraction"


def test_another_task_than_the_checkpoints_is_refused(refused, write_config):
    config = read_config(write_config(architectures=["ReformerForMaskedLM"]))

    with refused("text-generation", "fill-mask", "ReformerForMaskedLM", "`task`"):
        choose_task(config, (), "text-generation")
    with refused("ReformerModel, expected feature-extraction; choose"):
        choose_task(read_config(write_config(architectures=["ReformerModel"])), (), "text-generation")


@pytest.mark.parametrize(
    ("heads", "is_decoder", "task"),
    [
        ((), False, "feature-extraction"),
        (("lm_head",), True, "text-generation"),
        (("lm_head",), False, "fill-mask"),
        (("classifier",), False, "text-classification"),
        (("qa_outputs",), True, "question-answering"),
    ],
)
def test_the_weights_tell_the_task_without_an_architecture(write_config, heads, is_decoder, task):
    for architectures in (None, [], ...):
        config = read_config(write_config(architectures=architectures, is_decoder=is_decoder))

        assert choose_task(config, heads, "auto") == task


def test_two_heads_without_an_architecture_are_refused(refused, write_config):
    config = read_config(write_config(architectures=None))

    with refused("architectures: got None", "classifier and lm_head"):
        choose_task(config, ("classifier", "lm_head"), "auto")


@pytest.mark.parametrize(
    ("task", "changes", "parts"),
    [
        ("text-generation", {"is_decoder": False}, ["is_decoder: got False", "True for text-generation"]),
        ("fill-mask", {"is_decoder": True}, ["is_decoder: got True", "False for fill-mask"]),
        ("text-generation", {"is_decoder": True, "lsh_num_chunks_after": 1}, ["lsh_num_chunks_after: got 1"]),
        ("text-generation", {"is_decoder": True, "local_num_chunks_after": 1}, ["local_num_chunks_after"]),
        ("question-answering", {"id2label": {"0": "a"}, "label2id": {"a": 0}}, ["1 labels", "expected 2"]),
    ],
)
def test_what_a_task_demands(refused, write_config, task, changes, parts):
    config = read_config(write_config(**changes))

    with refused(*parts):
        spec_from_config(config, task, LoadOptions())


def test_num_labels_reach_a_classifier_only(write_config):
    folder = write_config(id2label={"0": "a", "1": "b", "2": "c"}, label2id={})

    assert spec_of(folder, "text-classification").num_labels == 3
    assert spec_of(folder, "feature-extraction").num_labels == 2
    assert spec_of(write_config(id2label=..., num_labels=5), "text-classification").num_labels == 5
