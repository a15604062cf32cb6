"""Artifacts whose runs choose how many of their hashing rounds they use."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
import transformers
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from reformer_export import load
from reformer_export.artifact.manifest import RuntimeNumHashes, read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.errors import InputError
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import find_native_library
from reformer_export.modeling import build_model
from reformer_export.parity.cases import Case
from reformer_export.runtimes import RuntimeOptions
from tests.configurations import random_inputs, reformer_configs
from tests.hf_models import build_model as build_hf_model
from tests.hf_models import config_t, save_model
from tests.parity.sessions import sweep_artifact

pytestmark = pytest.mark.usefixtures("translated_as_captured")

WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
NATIVE_MODES = ("off", "on") if find_native_library("auto") else ("off",)
MAX_HASHES = 5
CHOSEN_AT_RUN = ExportOptions(runtime_num_hashes=True)


def export(
    folder: Path, out: Path, options: ExportOptions = CHOSEN_AT_RUN, max_hashes: int = MAX_HASHES
) -> Path:
    out.mkdir()
    write_artifact(load_huggingface(str(folder), LoadOptions(num_hashes=max_hashes)), out, options)
    return out


def canonical_with_first_rounds(folder: Path, max_hashes: int, count: int) -> torch.nn.Module:
    """The canonical model of `max_hashes` rounds, each LSH layer's rotations [H, D, R, S] cut to `count`."""
    checkpoint = load_huggingface(str(folder), LoadOptions(num_hashes=max_hashes))
    model = build_model(checkpoint.spec, checkpoint.weights)
    for index in checkpoint.spec.lsh_layers:
        attention = model.get_submodule(f"encoder.layers.{index}.attention.self_attention")
        attention.rotations = attention.rotations[:, :, :count].contiguous()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a local layer and two LSH layers of two hashes, whose seeds differ."""
    config = config_t(attn_layers=["local", "lsh", "lsh"], hash_seed=None, initializer_range=0.5)
    return save_model(tmp_path_factory.mktemp("checkpoint"), config, transformers.ReformerModel)


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    return export(folder, folder.parent / "choice")


@pytest.fixture(scope="module")
def fixed(folder: Path) -> Path:
    return export(folder, folder.parent / "fixed", ExportOptions())


def test_every_lsh_layer_hashes_the_first_rounds(out: Path) -> None:
    graph = onnx.load(str(out / "model.onnx")).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "num_hashes"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert constants["num_hashes"].tolist() == [MAX_HASHES]
    made_by = {name: node for node in graph.node for name in node.output}
    hashes = [node for node in graph.node if node.op_type == "LSHBuckets"]
    cuts = [made_by[node.input[1]] for node in hashes]
    assert len(cuts) == len({cut.name for cut in cuts}) == 2
    for cut in cuts:
        assert cut.op_type == "Slice"
        rotations, first, count, axis = cut.input
        assert constants[rotations].shape == (2, 8, MAX_HASHES, 2)
        assert (constants[first].tolist(), count, constants[axis].tolist()) == ([0], "num_hashes", [2])


def test_rounds_are_a_symbol_and_the_checker_is_clean(out: Path) -> None:
    model = onnx.load(str(out / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    axes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    for node in model.graph.node:
        if node.op_type == "LSHBuckets":
            assert axes[node.output[0]] == ["batch", 2, "num_hashes", "sequence"]
            assert axes[node.input[1]] == [2, 8, "num_hashes", 2]


def test_the_manifest_tells_the_dial_and_its_limits(out: Path, fixed: Path) -> None:
    values = json.loads((out / "manifest.json").read_text())["dial"]
    assert (values["input"], values["max_hashes"]) == ("num_hashes", MAX_HASHES)
    assert f"Only num_hashes = {MAX_HASHES} equals transformers' draw" in values["note"]
    assert read_manifest(out).runtime_num_hashes == RuntimeNumHashes(MAX_HASHES)
    assert read_manifest(fixed).runtime_num_hashes is None


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_all_rounds_are_the_fixed_export_to_the_last_bit(out: Path, fixed: Path, native: str) -> None:
    with load(out, native=native, threads=1) as choice, load(fixed, native=native, threads=1) as plain:
        for length, masked in ((1, False), (8, False), (27, True), (64, True)):
            ids, mask = random_inputs(np.random.default_rng(length), 50, length, 2, masked=masked)
            expected = plain.run(ids, mask)["last_hidden_state"]
            for count in (None, MAX_HASHES):
                got = choice.run(ids, mask, num_hashes=count)["last_hidden_state"]
                assert np.array_equal(got, expected)


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_fewer_rounds_are_the_canonical_model_with_the_first_ones(
    folder: Path, out: Path, native: str
) -> None:
    found = []
    with load(out, native=native) as model:
        for count in range(1, MAX_HASHES + 1):
            canonical = canonical_with_first_rounds(folder, MAX_HASHES, count)
            for length, masked in ((8, False), (20, True), (64, False)):
                ids, mask = random_inputs(np.random.default_rng(length), 50, length, 2, masked=masked)
                (expected,) = canonical(torch.from_numpy(ids), torch.from_numpy(mask))
                got = model.run(ids, mask, num_hashes=count)["last_hidden_state"]
                np.testing.assert_allclose(got[mask == 1], expected.numpy()[mask == 1], atol=1e-4)
            found.append(got)
    for few, more in itertools.pairwise(found):
        assert np.abs(few - more).max() > 1e-2  # the count matters here


def test_onnx_reference_evaluator_takes_the_input(folder: Path, out: Path) -> None:
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(str(out / "model.onnx")))
    canonical = canonical_with_first_rounds(folder, MAX_HASHES, 2)
    ids, mask = random_inputs(np.random.default_rng(0), 50, 24, 2, masked=True)
    feeds = {"input_ids": ids, "attention_mask": mask, "num_hashes": np.array([2])}
    (expected,) = canonical(torch.from_numpy(ids), torch.from_numpy(mask))
    got = evaluator.run(None, feeds)[0]
    np.testing.assert_allclose(got[mask == 1], expected.numpy()[mask == 1], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(folder: Path, tmp_path: Path, dtype: str) -> None:
    export(folder, tmp_path / "out", ExportOptions(dtype=dtype, runtime_num_hashes=True))
    cases = [Case(20, 2, masked=True, num_hashes=count) for count in (1, 3, None)]
    for native in NATIVE_MODES:
        options = RuntimeOptions(provider="cpu", native=native)
        assert sweep_artifact(tmp_path / "out", folder, cases, options).passed, f"native {native}"


def test_layers_with_one_seed_share_their_rotations(tmp_path: Path) -> None:
    folder = save_model(tmp_path, config_t(attn_layers=["lsh", "lsh"]), transformers.ReformerModel)
    out = export(folder, tmp_path / "out")
    graph = onnx.load(str(out / "model.onnx")).graph
    assert len({node.input[0] for node in graph.node if node.name.startswith("first_rounds")}) == 1
    cases = [Case(24, 2, masked=False, num_hashes=count) for count in (1, 4)]
    assert sweep_artifact(out, folder, cases).passed


def test_a_model_that_does_not_hash_has_no_choice(tmp_path: Path) -> None:
    folder = save_model(tmp_path, config_t(attn_layers=["local"]), transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    with pytest.raises(InputError, match=r"a model without LSH layers, .*leave `max_hashes` out"):
        write_artifact(checkpoint, tmp_path, CHOSEN_AT_RUN)
    assert not (tmp_path / "model.onnx").exists()


@settings(max_examples=10, deadline=None, phases=WITHOUT_SHRINKING)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), max_hashes=st.integers(1, 9))
def test_any_count_of_any_maximum_equals_canonical_and_eager(
    data: st.DataObject, seed: int, max_hashes: int
) -> None:
    layers = data.draw(st.sampled_from([["lsh"], ["lsh", "local", "lsh"]]))
    config = data.draw(reformer_configs(attn_layers=layers))
    count = data.draw(st.integers(1, max_hashes))
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "checkpoint")
        build_hf_model(config, transformers.ReformerModel).save_pretrained(folder)
        out = export(folder, Path(root, "out"), max_hashes=max_hashes)
        length = int(rng.integers(1, read_manifest(out).spec.max_length + 1))
        case = Case(length, 2, masked=length > 1, num_hashes=count)
        options = [RuntimeOptions(provider="cpu", native=native) for native in NATIVE_MODES]
        results = [sweep_artifact(out, folder, [case], chosen, seed) for chosen in options]
        canonical = canonical_with_first_rounds(folder, max_hashes, count)
        ids, mask = random_inputs(rng, config.vocab_size, length, 2, masked=True)
        (expected,) = canonical(torch.from_numpy(ids), torch.from_numpy(mask))
        with load(out) as model:
            got = model.run(ids, mask, num_hashes=count)["last_hidden_state"]
    for result in results:
        assert result.passed, result.verdict()
    differs = np.abs(got - expected.numpy())[mask == 1].max(axis=-1)
    assert np.median(differs) < 1e-4  # a near-tie may hash differently and move a few tokens
