"""What is read is also built and run by transformers: nothing that is wrong with a config is found later."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import transformers
from transformers import ReformerConfig, ReformerModel

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.config import read_config, spec_from_config
from reformer_export.checkpoints.config_fields import HONOURED, IRRELEVANT, REFUSED
from reformer_export.errors import ReformerExportError
from tests.hf_models import config_t

ODD_VALUES = (
    *(None, True, 0, -1, 1, 3, 1.5, float("nan"), float("inf"), 2**40, "x", "8", "float16", "torch.bfloat16"),
    *([], {}, [8], [64], [8, 8], [4, 4, 4], [8, 8.0], [0, 8], ["a"], ["lsh"], {"0": 1}),
)


def write_config(folder, changes):
    """config.json of configuration T with changes; its folder."""
    (folder / "config.json").write_text(json.dumps(config_t().to_dict() | changes))
    return folder


def read_spec(folder):
    return spec_from_config(read_config(folder), "feature-extraction", LoadOptions())[0]


@pytest.mark.parametrize(
    ("shape", "dims"),
    [([64], [16]), ([4, 4, 4], [8, 4, 4]), ([2, 4, 2, 4], [4, 4, 4, 4]), ([8, 8], [16]), ([64], [8, 8])],
)
def test_axial_positions_have_two_axes(tmp_path, refused, shape, dims):
    field = "axial_pos_shape" if len(shape) != 2 else "axial_pos_embds_dim"
    changes = {"axial_pos_shape": shape, "axial_pos_embds_dim": dims}
    with refused(f"config.json: {field}: got {[shape, dims][field == 'axial_pos_embds_dim']}", "two axes"):
        read_spec(write_config(tmp_path, changes))
    assert read_spec(write_config(tmp_path, changes | {"axial_pos_embds": False})).max_length == 64


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_dropout_prob": 1.5}, "a probability from 0 to 1"),
        ({"local_attention_probs_dropout_prob": -0.1}, "a probability"),
        ({"lsh_attention_probs_dropout_prob": None}, "a probability"),
        ({"initializer_range": float("nan")}, "a finite number from 0 up"),
        ({"axial_norm_std": -1.0}, "a finite number"),
        ({"dtype": "int7"}, "float32, float16"),
        ({"torch_dtype": ["float32"]}, "float32, float16"),
    ],
)
def test_values_without_effect_are_those_that_transformers_takes(tmp_path, refused, changes, expected):
    with refused(f"config.json: {next(iter(changes))}", expected):
        read_spec(write_config(tmp_path, changes))


@pytest.mark.slow
@pytest.mark.parametrize("field", sorted(HONOURED | IRRELEVANT.keys() | REFUSED.keys()))
def test_what_is_read_is_built_and_run(tmp_path, field):
    """Each field with values of any kind: refused in one line, or transformers computes with it."""
    transformers.logging.set_verbosity_error()
    for value in ODD_VALUES:
        folder = write_config(tmp_path, {field: value})
        try:
            spec = read_spec(folder)
        except ReformerExportError:  # of one line: so are all, which other tests check
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = ReformerConfig.from_pretrained(folder)
            config.chunk_size_feed_forward = 0  # as reference/eager.py sets it
            with torch.device("meta"):
                model = ReformerModel(config)
            model = model.to_empty(device="cpu").eval()
            ids = torch.arange(min(spec.max_length, 20))[None] % spec.vocab_size
            with torch.no_grad():
                model(ids, use_cache=False, return_dict=True)
