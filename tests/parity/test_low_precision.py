"""Artifacts with weights of few bits against eager with the same weights and the same rounding, and what they
cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers

from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface, load_lucidrains
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.low_precision import LowPrecision, WeightsType
from reformer_export.measure.accuracy import TokenText
from reformer_export.parity.bisect import bisect
from reformer_export.parity.cases import Case
from reformer_export.parity.cost import measure_cost
from reformer_export.parity.decoding import check_decoding
from reformer_export.parity.decoding_cases import choose_decoding_cases
from reformer_export.parity.session import ON_CPU, ParitySession, open_session
from reformer_export.parity.sweep import sweep
from reformer_export.reference.eager import open_rounded
from reformer_export.reference.rounded import Rounding
from reformer_export.runtimes import RuntimeOptions
from tests import lucidrains
from tests.hf_models import config_t, save_model
from tests.parity.planted import Artifact

CASES = [Case(1, 1, masked=False), Case(41, 2, masked=True)]

Made = tuple[Path, Path]
"""An artifact's folder, and its checkpoint."""

TRANSFORMERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], ExportOptions]] = {
    "sliced": (
        transformers.ReformerForMaskedLM,
        {"hidden_act": "gelu"},
        {"feed_forward_slices": 2},
        ExportOptions("bfloat16", low_precision=LowPrecision("int8")),
    ),
    "kept": (
        transformers.ReformerModelWithLMHead,
        {"is_decoder": True, "hidden_act": "relu", "vocab_size": 258},
        {},
        ExportOptions("float16", decode=True, low_precision=LowPrecision("int8", ("query_key", "outer"))),
    ),
    "int4": (
        transformers.ReformerModelWithLMHead,
        {"is_decoder": True, "hidden_size": 32, "attention_head_size": 16, "axial_pos_embds_dim": [16, 16]},
        {},
        ExportOptions(opset=21, low_precision=LowPrecision("int4", ("query",))),
    ),
}
LUCIDRAINS: dict[str, tuple[dict[str, Any], ExportOptions]] = {
    "gated": (
        lucidrains.SMALL
        | {"ff_glu": True, "weight_tie_embedding": True, "emb_dim": 16, "num_mem_kv": 3}
        | {"pkm_layers": [1], "pkm_num_keys": 33},
        ExportOptions(low_precision=LowPrecision("int8")),
    ),
    "padded vectors": (
        lucidrains.SMALL_ATTENTION,
        ExportOptions("float16", low_precision=LowPrecision("int8")),
    ),
}


def export_one(name: str, root: Path) -> Made:
    (root / "out").mkdir()
    if name in LUCIDRAINS:
        keywords, options = LUCIDRAINS[name]
        file, config = lucidrains.save_model(root, keywords, "Autopadder")
        write_artifact(load_lucidrains(str(file), config, LoadOptions()), root / "out", options)
        return root / "out", file
    model_class, overrides, load, options = TRANSFORMERS[name]
    checkpoint = save_model(root, config_t(initializer_range=0.3, **overrides), model_class)
    write_artifact(load_huggingface(str(checkpoint), LoadOptions(**load)), root / "out", options)
    return root / "out", checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {name: export_one(name, tmp_path_factory.mktemp(name)) for name in (*TRANSFORMERS, *LUCIDRAINS)}


@contextmanager
def open_made(made: Made, options: RuntimeOptions = ON_CPU) -> Iterator[ParitySession]:
    with open_session(*made, options) as session:
        yield session


@pytest.mark.parametrize("name", [*TRANSFORMERS, *LUCIDRAINS])
@pytest.mark.parametrize("native", ["auto", "off"])
def test_the_arithmetic_is_eagers(made: dict[str, Made], name: str, native: Any) -> None:
    with open_made(made[name], RuntimeOptions(provider="cpu", native=native)) as session:
        result = sweep(session, CASES)
        assert bool(session.rounded) == (name != "int4")
    assert result.passed, result.verdict()
    assert max(case.share for case in result.cases) < 0.6
    assert ("int8 weights" in result.rule()) == (name != "int4")


def test_the_graph_has_the_weights_that_were_asked_for(made: dict[str, Made]) -> None:
    folder, _ = made["kept"]
    manifest = read_manifest(folder)
    assert manifest.low_precision == LowPrecision("int8", ("query_key", "outer"))
    linears = [node for node in onnx.load(str(folder / "model.onnx")).graph.node if node.op_type == "Linear"]
    weights = [node.input[1] for node in linears]
    assert not any("query_key" in name or "outer" in name for name in weights)
    assert len(linears) == 3 + 1 + 2 + 2 + 1  # query, key, value; value; outputs; inner; head
    assert sorted(node.attribute[0].i for node in linears) == [0] * 7 + [1] * 2  # relu in the inner ones
    packed = onnx.load(str(made["int4"][0] / "model.onnx")).graph.initializer
    assert sum(tensor.data_type == onnx.TensorProto.INT4 for tensor in packed) == 2 + 2 + 2 + 4 + 1


def test_decoding_is_the_models(made: dict[str, Made]) -> None:
    with open_made(made["kept"]) as session:
        result = check_decoding(session, choose_decoding_cases(session.manifest, short=True))
    assert result.passed, result.verdict()


@pytest.mark.parametrize("tensor", ["scales", "weight"])
def test_a_wrong_layer_is_found_and_named(made: dict[str, Made], tmp_path: Path, tensor: str) -> None:
    folder, checkpoint = made["sliced"]
    module = "encoder.layers.1.feed_forward.outer.1"

    def plant(model: onnx.ModelProto) -> None:
        (wrong,) = (each for each in model.graph.initializer if each.name == f"{module}.{tensor}")
        values = onnx.numpy_helper.to_array(wrong).copy()
        values[3] = values[3] * 1.5 if tensor == "scales" else -values[3]
        wrong.CopyFrom(onnx.numpy_helper.from_array(values, wrong.name))

    manifest = read_manifest(folder)
    artifact = Artifact(folder, checkpoint, manifest, open_rounded(checkpoint, manifest))
    with artifact.open(plant, tmp_path) as session:
        result = sweep(session, CASES)
        found = bisect(session, CASES[1:])
    assert not result.passed
    assert found.named is not None
    assert found.named.wrong.point.module.startswith("encoder.layers.1.feed_forward.outer")


def test_the_original_is_what_the_cost_is_told_against(made: dict[str, Made]) -> None:
    text = TokenText(np.random.default_rng(0).integers(0, 50, 150), 150)
    with open_made(made["kept"]) as session, open_session(*made["kept"], eager=session.eager) as other:
        rounded = session.eager.run(text.ids[None, :64], np.ones((1, 64), np.int64)).outputs["logits"]
        cost = measure_cost([session, other], text, "a text", 64)
        again = session.eager.run(text.ids[None, :64], np.ones((1, 64), np.int64)).outputs["logits"]
        random = measure_cost([session], length=40)
    np.testing.assert_array_equal(rounded, again)  # the original was for the cost alone
    assert (cost.sequences, cost.length, len(cost.artifacts)) == (3, 64, 2)
    first, second = cost.artifacts
    assert first.bits_per_character == second.bits_per_character
    assert 0 < abs(cost.loss(first) or 0) < 0.2
    assert 0.5 < (first.agreement or 0) < 1
    assert first.precision == "float16, int8 weights but for query_key, outer"
    assert first.nbytes > 0
    assert [layer.layer for layer in first.layers] == [1]
    assert 0 < first.flip_rate < 0.2
    assert random.bits_per_character is None
    assert random.artifacts[0].agreement is not None


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_smallest_rounding_error_is_half_a_unit(weights: WeightsType) -> None:
    """What eager computes with is the stored weight, of which the other is at most half a unit away."""
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    rounding = Rounding(weights, weight, None, 2, torch.float32)
    got = torch.cat([rounding.multiply(i, torch.eye(32)) for i in range(2)]).T
    units = weight.abs().amax(1, keepdim=True) / (127 if weights == "int8" else 7)
    assert ((got - weight).abs() <= units / 2 * 1.001).all()
