"""float16 and bfloat16 against float32 eager: errors within the tolerances, and flips at the stated rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from reformer_export.export import ExportOptions
from reformer_export.parity.cases import Case
from tests.export.test_export import export
from tests.hf_models import build_model
from tests.parity.sessions import sweep_artifact

SHIPPED = Path(__file__).parents[2] / "models" / "kjv-bytes"
CASES = [Case(200, 2, masked=True), Case(512, 2, masked=True)]

COMMON = {
    "hidden_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "axial_pos_shape": [64, 64],
    "max_position_embeddings": 4096,
    "vocab_size": 320,
    "feed_forward_size": 512,
    "hash_seed": 0,
}
DECODER = {  # as google/reformer-crime-and-punishment, with fewer positions
    "is_decoder": True,
    "attn_layers": ["local", "lsh"] * 3,
    "hidden_size": 256,
    "attention_head_size": 64,
    "num_attention_heads": 2,
    "axial_pos_embds_dim": [64, 192],
    "num_hashes": 1,
    "num_buckets": [64, 128],
    "lsh_num_chunks_after": 0,
    "hidden_act": "relu",
}
ENCODER = {  # twice as deep, four hashes, windows on both sides
    "is_decoder": False,
    "attn_layers": ["local", "lsh"] * 6,
    "hidden_size": 128,
    "attention_head_size": 16,
    "num_attention_heads": 8,
    "axial_pos_embds_dim": [64, 64],
    "num_hashes": 4,
    "num_buckets": 64,
    "lsh_num_chunks_after": 1,
    "local_num_chunks_after": 1,
    "hidden_act": "gelu",
}
RATE = {"float16": (0.0, 0.003), "bfloat16": (0.002, 0.02)}
"""The flip rates of docs/parity.md, with room."""
SHARE = {"float16": 0.5, "bfloat16": 0.6}
"""Of the tolerance: what the worst of these models may use, so that it does not hold by luck."""


@pytest.fixture(scope="module", params=["shipped", "decoder", "encoder"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "shipped":
        return SHIPPED
    folder = tmp_path_factory.mktemp(request.param)
    head = {"decoder": transformers.ReformerModelWithLMHead, "encoder": transformers.ReformerForMaskedLM}
    shape = {"decoder": DECODER, "encoder": ENCODER}[request.param]
    config = transformers.ReformerConfig(**COMMON, **shape)
    build_model(config, head[request.param]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_errors_and_flip_rates_are_those_stated(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    export(checkpoint, tmp_path / "out", ExportOptions(dtype=dtype))
    result = sweep_artifact(tmp_path / "out", checkpoint, CASES)
    assert result.passed, result.verdict()  # flips are stated, and fail nothing as long as they are explained
    assert max(case.pinned_error / case.tolerance for case in result.cases) < SHARE[dtype]
    least, most = RATE[dtype]
    assert least <= result.flip_rate <= most
    assert f"hashes flipped ({result.flip_rate:.3%})" in result.verdict()
    assert result.summary()["flip_rate"] == result.flip_rate
