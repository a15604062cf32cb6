"""Planted defects: the node that carries one is named, with its layer, and nothing is named without one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers

from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.export import ExportOptions
from reformer_export.libraries.operators import find_native_library
from reformer_export.parity import Case
from reformer_export.parity.bisect import BisectResult, bisect_artifact
from reformer_export.parity.layer_errors import SHOWN, layer_errors
from reformer_export.parity.points import SCOPES_KEY, find_points
from reformer_export.reference.eager import EagerReformer
from reformer_export.runtimes.ort import CPU, Placement
from tests.export.test_export import NATIVE_MODES, export
from tests.hf_models import config_t, save_model

CASE = Case(20, 2, masked=True)
"""Hashed, with virtual padding, and a masked row."""

Plant = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Artifact:
    folder: Path
    manifest: Manifest
    eager: EagerReformer

    def bisect(
        self, plant: Plant | None, scratch: Path, native: str = "off", case: Case = CASE
    ) -> BisectResult:
        """Search a copy of the model with a defect planted into it."""
        model = onnx.load(str(self.folder / "model.onnx"))
        if plant is not None:
            plant(model)
        onnx.save(model, str(scratch / "model.onnx"))
        execution = Placement(CPU, 1, find_native_library(native))
        return bisect_artifact(scratch, self.manifest, self.eager, [case], execution)


CONFIGURATIONS = {
    "encoder": (transformers.ReformerModel, {}, {}, ExportOptions()),
    "decoder": (
        transformers.ReformerModelWithLMHead,
        {
            "is_decoder": True,
            "hidden_act": "gelu",
            "attn_layers": ["lsh", "local", "lsh"],
            "num_buckets": [2, 4],
        },
        {"logits": "last", "feed_forward_slices": 2},
        ExportOptions(dtype="float16"),
    ),
    "classifier": (
        transformers.ReformerForSequenceClassification,
        {"num_labels": 3, "attn_layers": ["lsh", "local"], "axial_pos_embds": False},
        {"task": "text-classification"},
        ExportOptions(dtype="bfloat16"),
    ),
    "reader": (
        transformers.ReformerForQuestionAnswering,
        {},
        {"task": "question-answering"},
        ExportOptions(),
    ),
    "dial": (transformers.ReformerForMaskedLM, {"num_hashes": 4}, {}, ExportOptions(runtime_num_hashes=True)),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """Artifact by name of configuration, each exported once."""
    made: dict[str, Artifact] = {}

    def make(name: str) -> Artifact:
        if name not in made:
            model_class, overrides, load, options = CONFIGURATIONS[name]
            root = tmp_path_factory.mktemp(name)
            config = config_t(initializer_range=0.3, **overrides)
            checkpoint = save_model(root, config, model_class)
            export(checkpoint, root / "out", options, **load)
            manifest = read_manifest(root / "out")
            made[name] = Artifact(root / "out", manifest, EagerReformer(checkpoint, manifest.spec))
        return made[name]

    return make


# Plants


def node_of(model: onnx.ModelProto, op_type: str, module: str) -> onnx.NodeProto:
    """The last node of an operator that comes from `module` itself."""

    def scopes(node: onnx.NodeProto) -> str:
        return next((entry.value for entry in node.metadata_props if entry.key == SCOPES_KEY), "")

    return [n for n in model.graph.node if n.op_type == op_type and f"'{module}', '" in scopes(n)][-1]


def own_tensor(
    model: onnx.ModelProto, op_type: str, module: str, index: int, cut: onnx.NodeProto | None = None
) -> onnx.TensorProto:
    """An initialiser that this node reads, through `cut` if given, made its own: equal ones are shared."""
    node = node_of(model, op_type, module)
    if cut is not None:
        node, index = cut, 0
    shared = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[index])
    own = model.graph.initializer.add()
    own.CopyFrom(shared)
    own.name = node.input[index] = f"planted.{shared.name}"
    return own


def scale(op_type: str, module: str, index: int = 1, factor: float = 1.05) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        tensor = own_tensor(model, op_type, module, index)
        values = onnx.numpy_helper.to_array(tensor)
        scaled = (values.astype(np.float32) * np.float32(factor)).astype(values.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))

    return plant


def set_attribute(op_type: str, module: str, name: str, value: int | float) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, op_type, module)
        (attribute,) = (a for a in node.attribute if a.name == name)
        attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return plant


def swap_inputs(op_type: str, module: str) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, op_type, module)
        node.input[0], node.input[1] = node.input[1], node.input[0]

    return plant


def subtract(module: str) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node_of(model, "Add", module).op_type = "Sub"

    return plant


def shift_words(model: onnx.ModelProto) -> None:
    tensor = own_tensor(model, "Gather", "embeddings.word_embeddings", 0)
    values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


BLOCK = "encoder.layers."
LSH, LOCAL = f"{BLOCK}1.attention.self_attention", f"{BLOCK}0.attention.self_attention"
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
    ("a residual", subtract(f"{BLOCK}1"), "Sub", 1, f"{BLOCK}1"),
    (
        "a norm",
        scale("LayerNormalization", f"{BLOCK}1.feed_forward.layer_norm", factor=1.001),
        "LayerNormalization",
        1,
        f"{BLOCK}1.feed_forward.layer_norm",
    ),
    ("NaN", scale("Gemm", f"{BLOCK}0.feed_forward.inner.0", factor=np.nan), "Gemm", 0, None),
]


@pytest.mark.parametrize(
    ("plant", "operator", "layer", "module"),
    [p[1:] for p in ENCODER_PLANTS],
    ids=[p[0] for p in ENCODER_PLANTS],
)
def test_a_planted_defect_is_named(artifacts, tmp_path, plant, operator, layer, module) -> None:
    result = artifacts("encoder").bisect(plant, tmp_path)
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
    result = artifacts("decoder").bisect(plant, tmp_path, native)
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
        ("dial", set_attribute("LSHAttention", LSH, "num_chunks_after", 1), "LSHAttention", LSH),
    ],
    ids=["bfloat16", "bfloat16 feed-forward", "spans", "dial"],
)
def test_a_planted_defect_is_named_in_other_models(
    artifacts, tmp_path, name, plant, operator, module
) -> None:
    result = artifacts(name).bisect(plant, tmp_path)
    assert result.named is not None, result.verdict()
    assert (result.named.operator, result.named.wrong.point.module) == (operator, module)


@pytest.mark.parametrize("native", NATIVE_MODES)
@pytest.mark.parametrize(("name", "layer"), [("encoder", 1), ("decoder", 2), ("classifier", 0), ("dial", 1)])
def test_other_rotations_are_unexplained_flips(artifacts, tmp_path, name, layer, native) -> None:
    """Not noise: their margins are far above rounding, and the arithmetic agrees."""
    module = f"{BLOCK}{layer}.attention.self_attention"

    def plant(model: onnx.ModelProto) -> None:
        cut = [node for node in model.graph.node if node.name == f"first_rounds.{layer - 1}"]
        tensor = own_tensor(model, "LSHBuckets", module, 1, cut[0] if cut else None)
        values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)  # heads in another order
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    result = artifacts(name).bisect(plant, tmp_path, native)
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
    if name == "dial":
        cases.append(Case(20, 2, masked=True, num_hashes=2))
    for case in cases:
        result = artifacts(name).bisect(None, tmp_path, native, case)
        assert result.verdict() == f"No node differs ({case})"
        assert (result.named, result.part, result.first_beyond) == (None, None, None)
        assert 0 < result.largest.share < 0.5


def test_errors_that_add_up_are_not_blamed_on_a_node(artifacts, tmp_path) -> None:
    """Two projections, each within the tolerance by itself."""

    def plant(model: onnx.ModelProto) -> None:
        for module in (f"{LOCAL}.value", f"{BLOCK}0.attention.output.dense"):
            scale("MatMul", module, factor=1 + 4e-5)(model)

    result = artifacts("encoder").bisect(plant, tmp_path)
    assert (result.named, result.part) == (None, None)
    assert result.first_beyond is not None
    assert result.first_beyond.point.name == f"{BLOCK}0.attention.output.dense"
    assert 0.5 < result.largest.share < 1
    assert "No node differs by itself, but errors add up" in result.verdict()


def test_the_graph_says_where_every_module_ends(artifacts) -> None:
    encoder = artifacts("encoder")
    model = onnx.load(str(encoder.folder / "model.onnx"))
    names = [point.name for point in find_points(model, encoder.manifest.spec)]
    assert len(names) == len(set(names)) == 5 + 13 + 13 + 1
    assert names[-1] == "encoder.layer_norm"
    for node in model.graph.node:
        del node.metadata_props[:]
    with pytest.raises(ArtifactError, match="got no node that says that it is embeddings"):
        find_points(model, encoder.manifest.spec)


def test_layer_errors_has_a_row_for_each_part_of_each_layer(artifacts, tmp_path) -> None:
    encoder = artifacts("encoder")
    rows = layer_errors(encoder.folder, encoder.manifest, encoder.eager, [CASE, Case(64, 1, masked=False)])
    assert [(row["layer"], row["kind"], row["point"]) for row in rows] == [
        (layer, kind, point) for layer, kind in ((0, "local"), (1, "lsh")) for point in SHOWN
    ]
    assert all(row["error"] <= row["tolerance"] / 4 for row in rows)
    assert all(row["greatest"] > 0.01 for row in rows)

    model = onnx.load(str(encoder.folder / "model.onnx"))
    scale("MatMul", f"{LSH}.value")(model)
    onnx.save(model, str(tmp_path / "model.onnx"))
    worse = layer_errors(tmp_path, encoder.manifest, encoder.eager, [CASE])
    beyond = [(row["layer"], row["point"]) for row in worse if row["error"] > row["tolerance"]]
    assert beyond == [(1, point) for point in SHOWN]


def test_without_the_surgeon_its_package_is_named(artifacts, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[export\]'"):
        artifacts("encoder").bisect(None, tmp_path)
