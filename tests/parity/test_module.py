"""An artifact of a user's module beside that module: sweep, flips, inputs, and planted defects by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from reformer_export.custom_spec import AttentionUse, CustomSpec, CustomTensor, custom_spec
from reformer_export.errors import InputError
from reformer_export.parity.bisect import bisect
from reformer_export.parity.module_cases import choose_module_cases, draw_arrays, find_bounds, make_case
from reformer_export.parity.module_session import cases_from_arrays
from reformer_export.parity.sweep import sweep
from reformer_export.spec import LocalAttentionSpec
from tests.export.test_export import NATIVE_MODES
from tests.parity.planted import Plant, node_of, own_tensor, scale, set_attribute
from tests.parity.user_module import UserArtifact, export_forecast

CASE = make_case({"batch": 2, "sequence": 21}, "batch", masked=True)
"""Hashed everywhere, with virtual padding, and a masked row."""

USE = AttentionUse("", 0, "transformers", 2, 8, False)

TWICE = "module.blocks.twice.canonical.layers.0.attention"
TEXT = "module.text.canonical.encoder.layers.0"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> UserArtifact:
    return export_forecast(tmp_path_factory.mktemp("forecast") / "out")


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_every_default_case_agrees(artifact: UserArtifact, tmp_path: Path, native: Any) -> None:
    with artifact.open(None, tmp_path, native) as session:
        cases = session.default_cases()
        result = sweep(session, cases if native != "off" else cases[-4:])
        assert session.bounds == {"input_ids": 50}
    assert result.passed, result.verdict()
    assert max(case.pinned_error for case in result.cases) < 5e-6
    assert all(case.hashed > 0 for case in result.cases if case.case.length > 8)
    if native != "off":
        assert {case.masked for case in cases} == {True, False}
        assert {case.batch for case in cases} == {1, 2, 3}
        # Below what attends densely, at it, and where eager pads.
        assert {1, 8, 9, 16, 21, 48} <= {case.length for case in cases}


def test_a_sound_graph_names_nothing(artifact: UserArtifact, tmp_path: Path) -> None:
    with artifact.open(None, tmp_path) as session:
        result = bisect(session, [CASE])
        names = {point.name for point in session.find_points(CASE)}
    assert (result.named, result.first_beyond) == (None, None)
    assert result.largest.share < 0.2
    attention = "text.encoder.layers.0.attention"
    assert {
        *("series", "norm", "head.0", "head.2", "bare", "bare.query_key", "bare.buckets"),
        *("blocks.twice", "blocks.twice@1", "blocks.twice.to_out.input", "blocks.twice.to_out.input@1"),
        *("blocks.twice.buckets", "blocks.twice@1.buckets", f"{attention}.self_attention.buckets"),
        *(f"{attention}.layer_norm", f"{attention}.self_attention", f"{attention}.output.dense"),
        *("text.encoder.layers.1.feed_forward", "text.encoder.layer_norm"),
    } <= names


def roll_rotations(model: onnx.ModelProto) -> None:
    tensor = own_tensor(model, "LSHBuckets", f"{TEXT}.attention.self_attention", 1)
    values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def subtract_residual(model: onnx.ModelProto) -> None:
    bare = node_of(model, "LSHAttention", "module.bare")
    reads = [node for node in model.graph.node if bare.output[0] in node.input]
    next(node for node in reads if node.op_type == "Add").op_type = "Sub"


DEFECTS: dict[str, tuple[Plant, str]] = {
    "projection": (scale("MatMul", "module.series"), r"\((MatMul|Add)\), series: "),
    "second call": (
        set_attribute("LSHAttention", f"{TWICE}.self_attention", "self_logit", -1.0),
        r"\(\w+\), layer 1, blocks\.twice\.to_out\.input@1: ",
    ),
    "second projection": (
        scale("MatMul", f"{TWICE}.output.dense"),
        r"\((MatMul|Add)\), layer 1, blocks\.twice@1: ",
    ),
    "norm": (scale("LayerNormalization", "module.norm"), r"\(LayerNormalization\), norm: "),
    "causality": (
        set_attribute("LSHAttention", "module.bare", "is_causal", 0),
        r"\(LSHAttention\), layer 2, bare: ",
    ),
    "residual": (subtract_residual, r"\((MatMul|Add)\), head\.0: "),
    "rotations": (
        roll_rotations,
        r"\(LSHBuckets\), layer 3, text\.encoder\.layers\.0\.attention\.self_attention: \d+ unexplained ",
    ),
    "norm of two": (
        scale("ResidualNorm", f"{TEXT}.feed_forward.layer_norm", index=2),
        r"\(ResidualNorm\), text\.encoder\.layers\.0\.feed_forward\.layer_norm: ",
    ),
    "last norm": (
        scale("FinalNorm", f"{TEXT.partition('.layers')[0]}.layer_norm", index=3),
        r"\(FinalNorm\), text\.encoder\.layer_norm: ",
    ),
    "head": (scale("MatMul", "module.head.2"), r"\((MatMul|Add)\), head\.2: "),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_named_in_the_user_s_words(
    artifact: UserArtifact, tmp_path: Path, name: str
) -> None:
    plant, words = DEFECTS[name]
    with artifact.open(plant, tmp_path, "auto") as session:
        result = bisect(session, [CASE])
        swept = sweep(session, [CASE])
    assert result.named is not None
    assert re.search(words, result.verdict()), result.verdict()
    assert not swept.passed
    if name == "rotations":
        assert swept.cases[0].misplaced > 0


def test_each_output_counts_by_its_own_scale(artifact: UserArtifact, tmp_path: Path) -> None:
    with artifact.open(None, tmp_path) as session:
        trial = session.trial(CASE)
        truth = trial.run_eager().outputs
        mask = trial.feeds["attention_mask"] == 1

        def worst(**changes: Any) -> float:
            got = {name: changes.get(name, value) for name, value in truth.items()}
            return trial.compare(got, truth).worst

        assert worst() == 0
        assert worst(scores=truth["scores"] + ~mask[..., None]) == 0  # where there is no token
        assert worst(scores=truth["scores"] + 0.25 * mask[..., None]) == pytest.approx(
            0.25 / max(1, np.abs(truth["scores"][mask]).max())
        )
        assert worst(pooled=truth["pooled"][:1]) == np.inf
        assert worst(pooled=truth["pooled"] * np.nan) == np.inf
        truth = {"scores": 1e6 * truth["scores"], "pooled": (truth["pooled"] > 0).astype(np.int64)}
        assert worst(pooled=truth["pooled"] + 1) == 1
        assert worst(scores=truth["scores"] * np.float32(1 + 1e-3)) == pytest.approx(1e-3, rel=1e-3)


def test_given_inputs_are_cases(artifact: UserArtifact, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [
        {
            "series": torch.from_numpy(rng.standard_normal((batch, length, 3), np.float32)),
            "input_ids": rng.integers(0, 50, (batch, length)).tolist(),
            "attention_mask": np.ones((batch, length), np.int32),
        }
        for batch, length in ((1, 30), (2, 8))
    ]
    cases = cases_from_arrays(artifact.manifest, given)
    assert [str(case) for case in cases] == [
        "inputs 0: batch 1, sequence 30",
        "inputs 1: batch 2, sequence 8",
    ]
    with artifact.open(None, tmp_path) as session:
        result = sweep(session, cases)
        assert np.array_equal(session.trial(cases[0]).feeds["series"], given[0]["series"])
    assert result.passed
    assert result.to_dict()["cases"][1]["case"] == {
        "sizes": {"batch": 2, "sequence": 8},
        "masked": False,
        "inputs": "inputs 1",
    }
    for wrong, words in (
        ({"series": given[0]["series"]}, "input_ids: got none"),
        (given[0] | {"more": 1}, "more"),
        (given[0] | {"input_ids": given[1]["input_ids"]}, "make them agree"),
    ):
        with pytest.raises(InputError, match=words):
            cases_from_arrays(artifact.manifest, [wrong])


def test_sizes_and_bounds_of_drawn_inputs(artifact: UserArtifact) -> None:
    spec = artifact.manifest.spec
    assert isinstance(spec, CustomSpec)
    cases = choose_module_cases(spec, "batch", [5, 64, 65], [1, 4])
    assert {(case.length, case.batch) for case in cases} == {(5, 1), (5, 4), (64, 1), (64, 4)}
    arrays = draw_arrays(spec, {"input_ids": 50}, CASE, 0)
    assert arrays["input_ids"].max() < 50
    mask = arrays["attention_mask"]
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert mask.min() == 0
    with pytest.raises(InputError, match="input_ids of int64, which chooses no row of a table"):
        draw_arrays(spec, {}, CASE, 0)
    with pytest.raises(InputError, match=r"lengths: got \[65\], expected sizes of batch "):
        choose_module_cases(spec, "batch", [65], None)
    with pytest.raises(InputError, match="without a dimension of rows"):
        choose_module_cases(spec, None, None, [2])


def test_ids_are_bounded_by_the_smallest_table_that_they_choose_from() -> None:
    def table(name: str, rows: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.zeros((rows, 2), np.float32), name)

    nodes = [
        onnx.helper.make_node("Cast", ["ids"], ["cast"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Gather", ["a", "cast"], ["x"]),
        onnx.helper.make_node("Gather", ["b", "ids"], ["y"]),
        onnx.helper.make_node("Gather", ["a", "other"], ["z"], axis=1),
        onnx.helper.make_node("Gather", ["x", "more"], ["w"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [table("a", 9), table("b", 7)])

    inputs = tuple(CustomTensor(name, "int64", (2,)) for name in ("ids", "other", "more"))
    spec = custom_spec(inputs, inputs, (), (LocalAttentionSpec(4, 1, 0),), (USE,))
    assert find_bounds(graph, spec) == {"ids": 7}
