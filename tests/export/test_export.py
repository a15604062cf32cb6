from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
import transformers
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from reformer_export.artifact.manifest import check_files, read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.contract import DOMAIN
from reformer_export.export import ExportOptions, graph, write_artifact
from reformer_export.libraries.operators import find_native_library
from reformer_export.parity.cases import Case
from reformer_export.reference.eager import EagerReformer
from reformer_export.runtimes import RuntimeOptions
from tests.configurations import random_inputs, reformer_configs
from tests.hf_models import build_model as build_hf_model
from tests.hf_models import config_t, save_model
from tests.modeling.test_reformer import HEADS
from tests.parity.sessions import sweep_artifact

pytestmark = pytest.mark.usefixtures("translated_as_captured")

WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""An export takes seconds: shrinking a failure would take many minutes."""

CONTRACT_ATTRIBUTES = {
    "LSHBuckets": {"num_heads", "num_buckets"},
    "LocalAttention": {
        "num_heads", "chunk_length", "num_chunks_before", "num_chunks_after", "is_causal", "padding_multiple",
        "padding_threshold", "self_logit", "wraps",
    },
}  # fmt: skip
CONTRACT_ATTRIBUTES["LSHAttention"] = (CONTRACT_ATTRIBUTES["LocalAttention"] - {"wraps"}) | {
    "key_norm_epsilon", "dense_threshold",
}  # fmt: skip
CONTRACT_ATTRIBUTES["ResidualNorm"] = CONTRACT_ATTRIBUTES["FinalNorm"] = {"epsilon"}
NATIVE_MODES = ("off", "on") if find_native_library("auto") else ("off",)
CONTRACT_INPUTS = {"LSHBuckets": 3, "LSHAttention": 4, "LocalAttention": 4, "ResidualNorm": 4}
CONTRACT_INPUTS["FinalNorm"] = 5


def export(
    checkpoint_folder: Path, out: Path, options: ExportOptions | None = None, **load: object
) -> onnx.ModelProto:
    out.mkdir()
    checkpoint = load_huggingface(str(checkpoint_folder), LoadOptions(**load))
    write_artifact(checkpoint, out, options or ExportOptions())
    return onnx.load(str(out / "model.onnx"))


def axes_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Configuration T with hash_seed None, exported: (checkpoint folder, artifact folder, model)."""
    root = tmp_path_factory.mktemp("exported")
    folder = save_model(root, config_t(hash_seed=None), transformers.ReformerModel)
    return folder, root / "out", export(folder, root / "out")


def test_nodes_keep_the_contract(exported):
    _, _, model = exported
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    norm = "ResidualNorm"
    assert [node.op_type for node in nodes] == [
        *("LocalAttention", norm, norm),
        *("LSHBuckets", "LSHAttention", norm, "FinalNorm"),
    ]
    for node in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type not in (norm, "FinalNorm"):
            assert attributes.pop("plugin_namespace") == b"reformer"
            assert attributes.pop("plugin_version") == b"1"
        assert set(attributes) == CONTRACT_ATTRIBUTES[node.op_type]
        assert len(node.input) == CONTRACT_INPUTS[node.op_type]
        assert all(node.input)
    assert {f.name for f in model.functions} == {node.op_type for node in nodes}
    assert [o.version for o in model.opset_import if o.domain == DOMAIN] == [1]


def test_axes_are_symbols_and_custom_outputs_are_typed(exported):
    _, _, model = exported
    graph = model.graph
    assert [axes_of(value) for value in graph.input] == [["batch", "sequence"]] * 2
    assert [axes_of(value) for value in graph.output] == [["batch", "sequence", 32]]
    typed = {value.name: axes_of(value) for value in (*graph.value_info, *graph.output)}
    expected = {"LocalAttention": ["batch", "sequence", 16], "LSHBuckets": ["batch", 2, 2, "sequence"]}
    expected["LSHAttention"] = expected["LocalAttention"]
    expected["ResidualNorm"] = ["batch", "sequence", 16]
    expected["FinalNorm"] = ["batch", "sequence", 32]
    for node in graph.node:
        if node.domain == DOMAIN:
            assert all(typed[name] == expected[node.op_type] for name in node.output)


def test_checker_and_strict_shape_inference_are_clean(exported):
    _, _, model = exported
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_case_1_nothing_random_and_bit_equal_runs(exported):
    folder, out, model = exported
    op_types = {node.op_type for node in model.graph.node}
    op_types |= {node.op_type for function in model.functions for node in function.node}
    assert not [name for name in op_types if "Random" in name]
    session = ort.InferenceSession(str(out / "model.onnx"))
    ids = np.arange(32)[None] % 50
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    first, second = (session.run(None, feeds)[0] for _ in range(2))
    assert np.array_equal(first, second)
    expected = (
        EagerReformer(folder, read_manifest(out).spec).run(*feeds.values()).outputs["last_hidden_state"]
    )
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_cases_2_3_5_one_file_every_length_and_batch(exported):
    folder, out, _ = exported
    lengths = (1, 2, 7, 8, 9, 16, 20, 24, 32, 48, 64)
    cases = [Case(n, batch, masked=False) for n in lengths for batch in (1, 2)]
    for native in NATIVE_MODES:
        result = sweep_artifact(out, folder, cases, RuntimeOptions(provider="cpu", native=native))
        assert max(case.free_error for case in result.cases) < 1e-5


def test_onnx_reference_evaluator_runs_the_whole_file(exported):
    folder, out, model = exported
    evaluator = onnx.reference.ReferenceEvaluator(model)
    eager = EagerReformer(folder, read_manifest(out).spec)
    for length in (1, 9, 24):
        ids, mask = random_inputs(np.random.default_rng(0), 50, length, 2, masked=length > 1)
        got = evaluator.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        expected = eager.run(ids, mask).outputs["last_hidden_state"]
        np.testing.assert_allclose(got[mask == 1], expected[mask == 1], atol=1e-5)


def test_manifest_describes_the_files(exported):
    _, out, _ = exported
    manifest = read_manifest(out)
    check_files(out, manifest)
    assert set(manifest.files) >= {"model.onnx", "config.json"}
    assert [layer.hash_seed for layer in manifest.spec.layers[1:]] == [1]
    assert manifest.source["hash_seed"]["from"] == "drawn per layer"
    assert list(manifest.rotations_sha256) == ["1"]
    operators = ("LSHBuckets", "LSHAttention", "LocalAttention", "ResidualNorm", "FinalNorm")
    assert manifest.operators == dict.fromkeys(operators, 1)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_norm_reads_an_addition_that_is_a_node_of_its_own(tmp_path, dtype, slices):
    """What is left: the embeddings' norm, over their sum."""
    folder = save_model(tmp_path, config_t(attn_layers=["lsh", "local", "lsh"]), transformers.ReformerModel)
    options = ExportOptions(dtype=dtype)
    model = export(folder, tmp_path / "out", options, feed_forward_slices=slices)
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert [producers[node.input[0]] for node in norms] == ["Add"]
    fused = [node for node in model.graph.node if node.op_type in ("ResidualNorm", "FinalNorm")]
    assert [node.op_type for node in fused] == [*(["ResidualNorm"] * (2 * 3 - 1)), "FinalNorm"]
    streams = {name for node in fused[:-1] for name in node.output[:1]}
    assert not [node for node in model.graph.node if node.op_type == "Add" and streams & set(node.input)]


def test_same_seed_shares_one_initialiser(tmp_path):
    folder = save_model(tmp_path, config_t(attn_layers=["lsh", "lsh"]), transformers.ReformerModel)
    model = export(folder, tmp_path / "out")
    rotations = {n.input[1] for n in model.graph.node if n.op_type == "LSHBuckets"}
    assert len(rotations) == 1


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_every_opset(tmp_path, opset):
    folder = save_model(tmp_path, config_t(hidden_act="gelu"), transformers.ReformerModel)
    model = export(folder, tmp_path / "out", ExportOptions(opset=opset))
    assert [o.version for o in model.opset_import if o.domain == ""] == [opset]
    assert {o.version for f in model.functions for o in f.opset_import if o.domain == ""} == {opset}
    result = sweep_artifact(tmp_path / "out", folder, [Case(8, 1, masked=False), Case(20, 2, masked=True)])
    assert result.passed
    assert result.cases[1].free_error < 1e-5


@pytest.mark.parametrize("task", HEADS)
def test_every_head(tmp_path, task):
    config = config_t(is_decoder=task == "text-generation", num_labels=2 if "question" in task else 5)
    folder = save_model(tmp_path, config, HEADS[task])
    model = export(folder, tmp_path / "out", feed_forward_slices=2)
    manifest = read_manifest(tmp_path / "out")
    assert [value.name for value in model.graph.output] == list(manifest.spec.output_names)
    cases = [Case(1, 1, masked=False), Case(8, 2, masked=True), Case(27, 3, masked=True)]
    result = sweep_artifact(tmp_path / "out", folder, cases)
    assert result.passed
    assert max(case.free_error for case in result.cases) < 1e-5


def test_external_data(tmp_path):
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out", ExportOptions(external_data_threshold=0))
    manifest = read_manifest(tmp_path / "out")
    assert "model.onnx.data" in manifest.files
    assert (tmp_path / "out/model.onnx.data").stat().st_size > 4 * 50 * 16
    assert sweep_artifact(tmp_path / "out", folder, [Case(20, 2, masked=True)]).passed


@settings(max_examples=12, deadline=None, phases=WITHOUT_SHRINKING)
@given(config=reformer_configs(), seed=st.integers(0, 2**32 - 1))
def test_matches_eager_for_random_configurations(config, seed):
    """Random configuration, lengths, batches and masks: the exported file against unpatched eager."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as root:
        folder, out = Path(root, "checkpoint"), Path(root, "out")
        build_hf_model(config, transformers.ReformerModel).save_pretrained(folder)
        export(folder, out)
        longest = read_manifest(out).spec.max_length
        lengths = [1, longest, *map(int, rng.integers(1, longest + 1, 6))]
        cases = [Case(n, int(rng.integers(1, 4)), masked=n > 1 and bool(rng.integers(2))) for n in lengths]
        options = [RuntimeOptions(provider="cpu", native=native) for native in NATIVE_MODES]
        results = [sweep_artifact(out, folder, cases, chosen, seed) for chosen in options]
    assert all(result.passed for result in results)
    for case in (case for result in results for case in result.cases):
        assert case.pinned_error < 1e-4
        assert case.flips > 0 or case.free_error < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out", ExportOptions(dtype=dtype))
    cases = [Case(n, 2, masked=n > 1) for n in (1, 8, 20, 64)]
    for native in NATIVE_MODES:
        options = RuntimeOptions(provider="cpu", native=native)
        assert sweep_artifact(tmp_path / "out", folder, cases, options).passed, f"native {native}"


def test_what_the_exporter_prints_is_not_the_command_s_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As onnxscript 0.5 does with how many rules it applied."""
    export = graph.torch.onnx.export

    def print_and_export(*arguments: object, **options: object) -> object:
        print("Applied 14 of general pattern rewrite rules.")
        return export(*arguments, **options)

    monkeypatch.setattr(graph.torch.onnx, "export", print_and_export)
    folder, out = save_model(tmp_path, config_t(), transformers.ReformerModel), tmp_path / "out"
    loaded = load_huggingface(str(folder), LoadOptions())
    out.mkdir()
    capsys.readouterr()
    write_artifact(loaded, out, ExportOptions())
    assert capsys.readouterr().out == ""
