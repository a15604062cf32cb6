"""Random artifacts with int4 weights against eager with the same weights dequantised: the arithmetic, and the
decoding."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.checkpoints import Checkpoint, LoadOptions, load_huggingface, load_lucidrains
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.low_precision import LowPrecision
from reformer_export.parity.cases import Case
from reformer_export.parity.decoding import check_decoding
from reformer_export.parity.decoding_cases import DecodingCase, Row
from reformer_export.parity.session import open_session
from reformer_export.parity.sweep import sweep
from reformer_export.runtimes import RuntimeOptions
from reformer_export.spec import DTYPES, DType
from tests import lucidrains
from tests.configurations import reformer_configs
from tests.hf_models import save_model

CASES = [Case(1, 1, masked=False), Case(23, 2, masked=True)]
DECODING = [DecodingCase((Row(5), Row(17))), DecodingCase((Row(7, 3), Row(16, 3)))]
PROJECTIONS = ("query_key", "value", "output", "inner", "outer", "head")


@st.composite
def transformers_models(draw: st.DrawFn) -> transformers.ReformerConfig:
    """All of whose dense layers read a multiple of 32 values."""
    heads, width, hidden = (
        draw(st.sampled_from([1, 2, 4])),
        *draw(st.tuples(*[st.sampled_from([32, 64])] * 2)),
    )
    first = draw(st.integers(1, hidden - 1))
    is_causal = draw(st.booleans())
    fixed = {"lsh_num_chunks_after": 0, "local_num_chunks_after": 0} if is_causal else {}
    return draw(
        reformer_configs(
            hidden_size=hidden,
            num_attention_heads=heads,
            attention_head_size=width // heads,
            feed_forward_size=64,
            axial_pos_shape=[8, 8],
            axial_pos_embds_dim=[first, hidden - first],
            max_position_embeddings=64,
            local_attn_chunk_length=8,
            lsh_attn_chunk_length=draw(st.sampled_from([4, 8])),
            attn_layers=draw(st.sampled_from([["lsh"], ["local", "lsh"], ["lsh", "lsh"]])),
            vocab_size=40,
            initializer_range=0.3,
            is_decoder=is_causal,
            **fixed,
        )
    )


@st.composite
def lucidrains_models(draw: st.DrawFn) -> dict[str, Any]:
    keywords = {
        "dim": draw(st.sampled_from([32, 64])),
        "depth": draw(st.integers(1, 2)),
        "ff_mult": draw(st.integers(1, 2)),
        "emb_dim": draw(st.sampled_from([None, 32])),
        "causal": draw(st.booleans()),
        "full_attn_thres": draw(st.sampled_from([0, 13])),
    }
    for name in ("ff_glu", "weight_tie", "weight_tie_embedding", "use_full_attn", "one_value_head"):
        keywords[name] = draw(st.integers(0, 2)) == 0
    return lucidrains.SMALL | keywords


def save(model: Any, folder: Path, slices: int) -> tuple[Path, Checkpoint]:
    if isinstance(model, dict):
        file, config = lucidrains.save_model(folder, model, "Autopadder")
        return file, load_lucidrains(str(file), config, LoadOptions())
    kind = transformers.ReformerModelWithLMHead if model.is_decoder else transformers.ReformerForMaskedLM
    path = save_model(folder, model, kind)
    return path, load_huggingface(str(path), LoadOptions(feed_forward_slices=slices))


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(transformers_models(), lucidrains_models()),
    st.sampled_from(DTYPES),
    st.sets(st.sampled_from(PROJECTIONS), max_size=3).map(sorted).map(tuple),
    st.integers(1, 2),
    st.sampled_from(["auto", "off"]),
)
def test_the_arithmetic_is_eagers(
    model: Any, dtype: DType, kept: tuple[str, ...], slices: int, native: Any
) -> None:
    is_causal = model["causal"] if isinstance(model, dict) else model.is_decoder
    low_precision = LowPrecision("int4", kept)
    with tempfile.TemporaryDirectory() as name:
        file, checkpoint = save(model, Path(name), slices)
        out = Path(name) / "out"
        out.mkdir()
        options = ExportOptions(dtype, opset=21, decode=is_causal, low_precision=low_precision)
        write_artifact(checkpoint, out, options)
        for graph in (MODEL_NAME, DECODE_NAME)[: 1 + is_causal]:
            stored = onnx.load(str(out / graph), load_external_data=False).graph.initializer
            assert any(tensor.data_type == onnx.TensorProto.INT4 for tensor in stored)
        with open_session(out, file, RuntimeOptions(provider="cpu", native=native)) as session:
            result = sweep(session, CASES)
            assert result.passed, result.verdict()
            assert max(case.share for case in result.cases) < 0.6
            if is_causal:
                decoded = check_decoding(session, DECODING)
                assert decoded.passed, decoded.verdict()
