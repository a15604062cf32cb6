"""decode.onnx is judged: a sound one passes, and each kind of defect fails the comparison that is for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from onnx import helper, numpy_helper

import reformer_export
from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import ArtifactError
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.parity.compare import GivenTolerance
from reformer_export.parity.decoding import check_decoding
from reformer_export.parity.decoding_cases import DecodingCase, Row, choose_decoding_cases
from reformer_export.parity.decoding_results import CHECKS, DecodingResult
from reformer_export.parity.session import open_session
from reformer_export.runtimes import RuntimeOptions
from tests.edits import vouch_for
from tests.hf_models import config_t, save_model
from tests.parity.planted import LOCAL, LSH, Artifact, Plant, own_tensor, scale, set_attribute
from tests.required import skip_unless_required

CASES = [
    DecodingCase((Row(5), Row(16), Row(21))),
    DecodingCase((Row(6, 4), Row(14, 4, 2), Row(1, 3))),
]
"""Dense and chunked prompts, steps over the borders at 8 and 16, rows that join later and rest."""


def export_decoder(root: Path, config: dict[str, Any], **options: Any) -> Artifact:
    overrides = {"is_decoder": True, "initializer_range": 0.3} | config
    checkpoint = save_model(root, config_t(**overrides), transformers.ReformerModelWithLMHead)
    reformer_export.export_checkpoint(checkpoint, root / "out", decode=True, verify=False, **options)
    manifest = read_manifest(root / "out")
    with open_session(root / "out", checkpoint) as session:
        return Artifact(root / "out", checkpoint, manifest, session.eager)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two layers, local and LSH, of chunks of 8; not to be changed."""
    return export_decoder(tmp_path_factory.mktemp("decoder"), {})


def judge(
    artifact: Artifact,
    scratch: Path,
    plant: Plant | None = None,
    native: NativeMode = "off",
    cases: list[DecodingCase] | None = None,
    given: GivenTolerance | None = None,
) -> DecodingResult:
    """The comparison, with a defect planted into decode.onnx."""
    folder = scratch / "out"
    shutil.copytree(artifact.folder, folder)
    if plant is not None:
        model = onnx.load(str(folder / "decode.onnx"))
        plant(model)
        onnx.save(model, str(folder / "decode.onnx"))
        vouch_for(folder / "decode.onnx")
    options = RuntimeOptions(provider="cpu", threads=1, native=native)
    with open_session(folder, artifact.checkpoint, options, eager=artifact.eager) as session:
        chosen = choose_decoding_cases(session.manifest) if cases is None else cases
        return check_decoding(session, chosen, given)


def failing(result: DecodingResult) -> set[str]:
    return {finding.check for finding in result.failed}


@pytest.mark.parametrize("native", ["off", "on"])
def test_a_sound_one_passes(artifact: Artifact, tmp_path: Path, native: NativeMode) -> None:
    if native == "on" and find_native_library("auto") is None:
        skip_unless_required("no native library is built")
    result = judge(artifact, tmp_path, native=native)
    assert result.passed, result.verdict()
    assert result.checks == list(CHECKS)
    assert result.hashed > 0
    assert all(result.worst(check).share < 0.5 for check in CHECKS)
    lengths = {finding.length for finding in result.findings if finding.check == "operator"}
    assert {1, 7, 8, 9, 15, 16, 17, 24, 25, 64} <= lengths
    assert result.verdict().startswith(f"Passed: decode.onnx, {len(result.of('prompt'))} prompts, ")
    summary = result.summary()
    assert summary["passed"]
    assert summary["operator"]["compared"] == len(result.of("operator"))
    assert len(result.to_dict()["findings"]) == len(result.findings)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {"dtype": "float16"}),
        ({}, {"dtype": "bfloat16", "logits": "last"}),
        ({"num_hashes": 3}, {"max_hashes": 3}),
        (
            {
                "attn_layers": ["lsh", "local", "lsh"],
                "local_attn_chunk_length": 4,
                "lsh_attn_chunk_length": 6,
                "axial_pos_embds": False,
                "lsh_num_chunks_before": 2,
                "num_buckets": [2, 4],
                "initializer_range": 1.0,
            },
            {"feed_forward_slices": 2},
        ),
    ],
    ids=["float16", "bfloat16", "rounds", "sharp"],
)
def test_other_sound_ones_pass(tmp_path: Path, config: dict[str, Any], options: dict[str, Any]) -> None:
    result = judge(export_decoder(tmp_path, config, **options), tmp_path / "scratch")
    assert result.passed, result.verdict()
    if "max_hashes" in options:
        assert {finding.case.num_hashes for finding in result.findings} == {None, 1}


def draw_other_rotations(model: onnx.ModelProto) -> None:
    tensor = own_tensor(model, "LSHBuckets", LSH, 1)
    values = np.random.default_rng(1).standard_normal(tuple(tensor.dims)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def transpose_weight(model: onnx.ModelProto) -> None:
    tensor = own_tensor(model, "MatMul", f"{LSH}.query_key", 1)
    values = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swap_caches(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "LSHAttentionStep")
    node.output[1], node.output[2] = node.output[2], node.output[1]


def replace_lengths(*nodes: onnx.NodeProto) -> Plant:
    """What the positions are counted from: the output "planted" of `nodes`, which read `lengths`."""

    def plant(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if not node.op_type.endswith("Step"):
                node.input[:] = ["planted" if name == "lengths" else name for name in node.input]
        for index, node in enumerate(nodes):
            model.graph.node.insert(index, node)

    return plant


LENGTHS_OF_THE_LONGEST_ROW = replace_lengths(
    helper.make_node("ReduceMax", ["lengths"], ["longest"], keepdims=1),
    helper.make_node("Shape", ["lengths"], ["rows"]),
    helper.make_node("Expand", ["longest", "rows"], ["planted"]),
)
POSITIONS_OF_STEPS_OFF_BY_ONE = replace_lengths(
    helper.make_node("Sign", ["lengths"], ["is_step"]),
    helper.make_node("Add", ["lengths", "is_step"], ["planted"]),
)


@pytest.mark.parametrize(
    ("plant", "expected", "told"),
    [
        (draw_other_rotations, {"prompt", "around"}, "buckets of layer 1 in "),
        (transpose_weight, {"prompt", "around"}, "logits, "),
        (scale("MatMul", f"{LOCAL}.value", factor=1.2), {"prompt", "around"}, "logits, "),
        (
            set_attribute("LSHAttentionStep", LSH, "num_chunks_before", 0),
            {"operator", "prompt"},
            "LSHAttentionStep, layer 1, ",
        ),
        (
            set_attribute("LSHAttentionStep", LSH, "padding_multiple", 16),
            {"operator"},
            "LSHAttentionStep, layer 1, ",
        ),
        (
            set_attribute("LSHAttentionStep", LSH, "key_norm_epsilon", 1e-2),
            {"operator"},
            "LSHAttentionStep, layer 1, ",
        ),
        (swap_caches, {"operator"}, "cache query_key, layer 1, "),
        (LENGTHS_OF_THE_LONGEST_ROW, {"batch", "around"}, "logits, "),
        (POSITIONS_OF_STEPS_OFF_BY_ONE, {"around"}, "logits, "),
    ],
    ids=[
        *("rotations", "transposed", "scaled", "window", "padding", "epsilon", "caches", "rows", "positions"),
    ],
)
def test_a_defect_fails_what_is_for_it(
    artifact: Artifact, tmp_path: Path, plant: Plant, expected: set[str], told: str
) -> None:
    result = judge(artifact, tmp_path, plant, cases=CASES)
    assert not result.passed
    assert expected <= failing(result)
    verdict = result.verdict()
    assert verdict.startswith(f"FAILED: {len(result.failed)} of {len(result.findings)} comparisons")
    assert told in verdict
    assert "tolerance" in verdict
    if expected == {"around"}:  # which nothing else sees
        assert failing(result) == {"around"}


def test_flips_of_other_rotations_have_no_explanation(artifact: Artifact, tmp_path: Path) -> None:
    result = judge(artifact, tmp_path, draw_other_rotations, cases=CASES)
    (worst,) = {finding.check for finding in result.failed if finding.unexplained} - {"around"}
    assert worst == "prompt"
    assert all(finding.error <= finding.tolerance for finding in result.of("prompt"))


def test_a_tolerance_that_is_given_judges_logits_only(artifact: Artifact, tmp_path: Path) -> None:
    loose = judge(artifact, tmp_path / "loose", transpose_weight, cases=CASES, given=GivenTolerance(1e3))
    assert all(finding.error <= finding.tolerance for finding in loose.findings)
    strict = judge(artifact, tmp_path / "strict", cases=CASES, given=GivenTolerance(1e-12))
    assert all(finding.passed for finding in strict.of("operator"))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda model: model.graph.output.pop(), "outputs logits, present.0.key"),
        (
            lambda model: model.graph.node.remove(_step(model)),
            "got LSHAttentionStep, expected LocalAttention",
        ),
    ],
    ids=["outputs", "operators"],
)
def test_a_graph_of_another_model_is_refused(
    artifact: Artifact, tmp_path: Path, plant: Callable[[onnx.ModelProto], object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        judge(artifact, tmp_path, lambda model: plant(model) and None, cases=CASES)


def _step(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "LocalAttentionStep")
