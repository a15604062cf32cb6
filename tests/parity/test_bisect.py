"""Planted defects: the node that carries one is named, with its layer, and nothing is named without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from reformer_export.libraries.operators import NativeMode
from reformer_export.parity.bisect import (
    MAX_SOUND_TOKENS,
    BisectResult,
    bisect,
    choose_failing_cases,
)
from reformer_export.parity.cases import Case
from reformer_export.parity.results import CaseResult, VerifyResult
from tests.export.test_export import NATIVE_MODES
from tests.parity.planted import (
    BLOCK,
    CASE,
    CONFIGURATIONS,
    LOCAL,
    LSH,
    Artifact,
    Plant,
    negate_update,
    own_tensor,
    scale,
    set_attribute,
    shift_words,
    split_norms,
    subtract,
    swap_inputs,
)


def search(
    artifact: Artifact, plant: Plant | None, scratch: Path, native: NativeMode = "off", case: Case = CASE
) -> BisectResult:
    with artifact.open(plant, scratch, native) as session:
        return bisect(session, [case])


ENCODER_PLANTS = [
    ("words in disorder", shift_words, "Gather", None, "embeddings.word_embeddings"),
    ("query and key swapped", swap_inputs("LocalAttention", LOCAL), "LocalAttention", 0, LOCAL),
    ("a value projection", scale("MatMul", f"{LSH}.value"), "MatMul", 1, f"{LSH}.value"),
    ("a window", set_attribute("LSHAttention", LSH, "num_chunks_before", 0), "LSHAttention", 1, LSH),
    ("an epsilon", set_attribute("LSHAttention", LSH, "key_norm_epsilon", 0.1), "LSHAttention", 1, LSH),
    (
        "an output projection",
        scale("MatMul", f"{BLOCK}0.attention.output.dense", factor=1.001),
        "MatMul",
        0,
        f"{BLOCK}0.attention.output.dense",
    ),
    (
        "the last residual",
        negate_update("encoder.layer_norm", "FinalNorm"),
        "FinalNorm",
        None,
        "encoder.layer_norm",
    ),
    (
        "an attention's residual",
        negate_update(f"{BLOCK}0.feed_forward.layer_norm"),
        "ResidualNorm",
        0,
        f"{BLOCK}0.attention",
    ),
    (
        "a feed-forward's residual",
        negate_update(f"{BLOCK}1.attention.layer_norm"),
        "ResidualNorm",
        0,
        f"{BLOCK}0",
    ),
    *(
        (
            f"a norm's {name} in {block}",
            scale("ResidualNorm", f"{BLOCK}1.{block}.layer_norm", index, 1.001, offset),
            "ResidualNorm",
            1,
            f"{BLOCK}1.{block}.layer_norm",
        )
        for index, name, offset in ((2, "weight", 0.0), (3, "bias", 0.002))
        for block in ("attention", "feed_forward")
    ),
    (
        "a norm's epsilon",
        set_attribute("ResidualNorm", f"{BLOCK}1.attention.layer_norm", "epsilon", 0.5),
        "ResidualNorm",
        1,
        f"{BLOCK}1.attention.layer_norm",
    ),
    (
        "the first norm",
        scale("LayerNormalization", f"{BLOCK}0.attention.layer_norm", factor=1.001),
        "LayerNormalization",
        0,
        f"{BLOCK}0.attention.layer_norm",
    ),
    *(
        (f"the last norm's {name}", plant, "FinalNorm", None, "encoder.layer_norm")
        for name, plant in (
            ("weight", scale("FinalNorm", "encoder.layer_norm", 3, 1.001)),
            ("bias", scale("FinalNorm", "encoder.layer_norm", 4, 1.001, 0.002)),
            ("streams", swap_inputs("FinalNorm", "encoder.layer_norm")),
        )
    ),
    ("NaN", scale("Gemm", f"{BLOCK}0.feed_forward.inner.0", factor=np.nan), "Gemm", 0, None),
]


@pytest.mark.parametrize(
    ("plant", "operator", "layer", "module"),
    [p[1:] for p in ENCODER_PLANTS],
    ids=[p[0] for p in ENCODER_PLANTS],
)
def test_a_planted_defect_is_named(artifacts, tmp_path, plant, operator, layer, module) -> None:
    result = search(artifacts("encoder"), plant, tmp_path)
    named = result.named
    assert named is not None, result.verdict()
    assert (named.operator, named.wrong.point.layer) == (operator, layer)
    assert module is None or named.wrong.point.module == module
    assert named.wrong.error > named.wrong.tolerance
    assert result.first_beyond is not None
    assert result.first_beyond.point is named.wrong.point
    assert f"{named.node} ({operator})" in result.verdict()


FIRST, LOCAL_16, LAST = (f"{BLOCK}{i}.attention.self_attention" for i in range(3))
DECODER_PLANTS = [
    ("query and key swapped", swap_inputs("LocalAttention", LOCAL_16), "LocalAttention", 1, LOCAL_16),
    ("a shared projection", scale("MatMul", f"{LAST}.query_key"), "MatMul", 2, f"{LAST}.query_key"),
    ("a window", set_attribute("LSHAttention", LAST, "num_chunks_before", 0), "LSHAttention", 2, LAST),
    ("no longer causal", set_attribute("LSHAttention", FIRST, "is_causal", 0), "LSHAttention", 0, FIRST),
    (
        "the second slice",
        scale("Gemm", f"{BLOCK}1.feed_forward.outer.1"),
        "Gemm",
        1,
        f"{BLOCK}1.feed_forward.outer.1",
    ),
    (
        "a norm over slices' sum",
        scale("ResidualNorm", f"{BLOCK}1.attention.layer_norm", 2),
        "ResidualNorm",
        1,
        f"{BLOCK}1.attention.layer_norm",
    ),
    (
        "a norm",
        scale("ResidualNorm", f"{BLOCK}1.feed_forward.layer_norm", 2),
        "ResidualNorm",
        1,
        f"{BLOCK}1.feed_forward.layer_norm",
    ),
    ("the last norm", scale("FinalNorm", "encoder.layer_norm", 3), "FinalNorm", None, "encoder.layer_norm"),
    ("the head's product", scale("MatMul", "lm_head.decoder"), "MatMul", None, "lm_head.decoder"),
]


@pytest.mark.parametrize("native", NATIVE_MODES)
@pytest.mark.parametrize(
    ("plant", "operator", "layer", "module"),
    [p[1:] for p in DECODER_PLANTS],
    ids=[p[0] for p in DECODER_PLANTS],
)
def test_a_planted_defect_is_named_in_float16(
    artifacts, tmp_path, native, plant, operator, layer, module
) -> None:
    result = search(artifacts("decoder"), plant, tmp_path, native)
    assert result.named is not None, result.verdict()
    point = result.named.wrong.point
    assert (result.named.operator, point.layer, point.module) == (operator, layer, module)


@pytest.mark.parametrize(
    ("name", "plant", "operator", "module"),
    [
        ("classifier", scale("Gemm", "classifier.dense", factor=1.2), "Gemm", "classifier.dense"),
        (
            "classifier",
            scale("Gemm", f"{BLOCK}0.feed_forward.outer.0", factor=1.2),
            "Gemm",
            f"{BLOCK}0.feed_forward.outer.0",
        ),
        ("reader", scale("MatMul", "qa_outputs", factor=1.001), "MatMul", "qa_outputs"),
        ("num_hashes", set_attribute("LSHAttention", LSH, "num_chunks_after", 1), "LSHAttention", LSH),
    ],
    ids=["bfloat16", "bfloat16 feed-forward", "spans", "num_hashes"],
)
def test_a_planted_defect_is_named_in_other_models(
    artifacts, tmp_path, name, plant, operator, module
) -> None:
    result = search(artifacts(name), plant, tmp_path)
    assert result.named is not None, result.verdict()
    assert (result.named.operator, result.named.wrong.point.module) == (operator, module)


@pytest.mark.parametrize("native", NATIVE_MODES)
@pytest.mark.parametrize(
    ("name", "layer"), [("encoder", 1), ("decoder", 2), ("classifier", 0), ("num_hashes", 1)]
)
def test_other_rotations_are_unexplained_flips(artifacts, tmp_path, name, layer, native) -> None:
    """Not noise: their margins are far above rounding, and the arithmetic agrees."""
    module = f"{BLOCK}{layer}.attention.self_attention"

    def plant(model: onnx.ModelProto) -> None:
        cut = [node for node in model.graph.node if node.name == f"first_rounds.{layer - 1}"]
        tensor = own_tensor(model, "LSHBuckets", module, 1, cut[0] if cut else None)
        values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)  # heads in another order
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    result = search(artifacts(name), plant, tmp_path, native)
    assert result.named is not None
    agreement = result.named.wrong.agreement
    assert (result.named.operator, result.named.wrong.point.layer) == ("LSHBuckets", layer)
    assert agreement is not None
    assert result.named.wrong.error == agreement.unexplained > agreement.hashed / 2
    assert (
        f"LSHBuckets), layer {layer}, {module}: {agreement.unexplained} unexplained flips" in result.verdict()
    )


@pytest.mark.parametrize("native", NATIVE_MODES)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_sound_artifact_has_no_node_that_differs(artifacts, tmp_path, name, native) -> None:
    cases = [CASE, Case(64, 1, masked=False), Case(5, 3, masked=True)]
    if name == "num_hashes":
        cases.append(Case(20, 2, masked=True, num_hashes=2))
    for case in cases:
        result = search(artifacts(name), None, tmp_path, native, case)
        assert result.verdict() == f"No node differs ({case})"
        assert (result.named, result.subgraph, result.first_beyond) == (None, None, None)
        assert 0 < result.largest.share < 0.5


@pytest.mark.parametrize(
    ("plant", "module"),
    [
        (None, None),
        (
            scale("LayerNormalization", f"{BLOCK}1.attention.layer_norm", factor=1.001),
            f"{BLOCK}1.attention.layer_norm",
        ),
        (subtract("encoder"), f"{BLOCK}1"),
        (scale("LayerNormalization", "encoder.layer_norm", factor=1.001), "encoder.layer_norm"),
    ],
)
def test_an_artifact_of_an_earlier_version_is_searched(artifacts, tmp_path, plant, module) -> None:
    """Its additions are nodes of their own."""

    def plant_into_split(model: onnx.ModelProto) -> None:
        split_norms(model)
        if plant is not None:
            plant(model)

    named = search(artifacts("encoder"), plant_into_split, tmp_path).named
    assert (named and named.wrong.point.module) == module


def test_errors_that_add_up_are_not_blamed_on_a_node(artifacts, tmp_path) -> None:
    """Two projections, each within the tolerance by itself."""

    def plant(model: onnx.ModelProto) -> None:
        for module in (f"{LOCAL}.value", f"{BLOCK}0.attention.output.dense"):
            scale("MatMul", module, factor=1 + 4e-5)(model)

    result = search(artifacts("encoder"), plant, tmp_path)
    assert (result.named, result.subgraph) == (None, None)
    assert result.first_beyond is not None
    assert result.first_beyond.point.name == f"{BLOCK}0.attention.output.dense"
    assert 0.5 < result.largest.share < 1
    assert "No node differs by itself, but errors add up" in result.verdict()


@pytest.mark.parametrize(
    ("sizes", "failed", "chosen"),
    [
        ((100, 20, 50, 8, 9), (100, 20, 50, 9), [9, 20, 50]),
        ((100, MAX_SOUND_TOKENS, MAX_SOUND_TOKENS + 1), (), [MAX_SOUND_TOKENS]),
        ((MAX_SOUND_TOKENS + 2, MAX_SOUND_TOKENS + 1), (), [MAX_SOUND_TOKENS + 1]),
    ],
)
def test_the_smallest_cases_that_failed_are_searched(sizes, failed, chosen) -> None:
    cases = [CaseResult(Case(n, 1, False), float(n in failed), 0.5, (), 0.0) for n in sizes]
    found = choose_failing_cases(VerifyResult("onnxruntime CPU", "float32", tuple(cases), "float32"))
    assert [case.length for case in found] == chosen
