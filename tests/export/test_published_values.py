"""The values that transformers publishes in its own tests, taken over from Trax (ReformerIntegrationTests in
tests/models/reformer/test_modeling_reformer.py), from the exported file."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
import transformers
from transformers.models.reformer import modeling_reformer

from tests.export.test_export import export

INPUT_IDS = np.array(
    [
        [89, 279, 286, 84, 194, 316, 182, 28, 283, 37, 169, 7, 253, 267, 107, 250,
         44, 7, 102, 62, 3, 243, 171, 265, 302, 48, 164, 264, 148, 229, 280, 150],
        [9, 192, 66, 112, 163, 83, 135, 70, 224, 96, 31, 80, 196, 80, 63, 22,
         85, 100, 47, 283, 0, 163, 126, 143, 195, 82, 53, 82, 18, 27, 182, 52],
    ]
)  # fmt: skip
ATTENTION_MASK = np.array(
    [
        [1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0],
    ]
)


def save_published_model(folder, model_class, config, monkeypatch):
    """Save the model whose random weights the published values belong to: torch seed 0, and a head whose
    bias is not drawn. Transformers 5 draws one, so every weight after it would be another."""

    class HeadLinear(torch.nn.Linear):
        def __init__(self, inputs, outputs, bias=True):
            super().__init__(inputs, outputs, bias=bias and outputs != config.vocab_size)

    with monkeypatch.context() as patch:
        patch.setattr(modeling_reformer.nn, "Linear", HeadLinear)
        torch.manual_seed(0)
        model = model_class(config).eval()
    if hasattr(model, "lm_head"):
        model.lm_head.decoder.bias = torch.nn.Parameter(torch.zeros(config.vocab_size))
    model.save_pretrained(folder)


def published_config(**overrides):
    values = {
        "vocab_size": 320,
        "attention_head_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_buckets": [2, 4],
        "num_hashes": 4,
        "lsh_attn_chunk_length": 4,
        "local_attn_chunk_length": 4,
        "feed_forward_size": 32,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "lsh_attention_probs_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 32,
        "axial_pos_shape": [4, 8],
        "axial_pos_embds_dim": [8, 8],
        "hash_seed": 0,
        "is_decoder": True,
    }
    return transformers.ReformerConfig(**{**values, **overrides})


@pytest.mark.parametrize(
    ("model_class", "overrides", "where", "expected"),
    [
        ("ReformerModel", {"attn_layers": ["lsh"] * 4}, (0, 0), [-0.9896, -0.9396, -1.0831, -0.0597, 0.2456]),
        ("ReformerModel", {"attn_layers": ["local"] * 4, "num_buckets": 2}, (0, 0),
         [-1.6791, 0.7171, 0.1594, 0.4063, 1.2584]),
        ("ReformerForMaskedLM", {"attn_layers": ["local", "lsh"] * 3, "is_decoder": False}, (1, -1),
         [0.1018, -0.2026, 0.2116, 0.0270, -0.1233]),
    ],
    ids=["lsh_model", "local_model", "lm_model"],
)  # fmt: skip
def test_published_values(tmp_path, monkeypatch, model_class, overrides, where, expected):
    config, folder = published_config(**overrides), tmp_path / "checkpoint"
    save_published_model(folder, getattr(transformers, model_class), config, monkeypatch)
    export(folder, tmp_path / "out")
    session = ort.InferenceSession(str(tmp_path / "out/model.onnx"))
    output = session.run(None, {"input_ids": INPUT_IDS, "attention_mask": ATTENTION_MASK})[0]
    np.testing.assert_allclose(output[where][:5], expected, atol=1e-3)
