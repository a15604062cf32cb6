from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnx import TensorProto

from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.export import ExportOptions
from reformer_export.modeling import build_model
from reformer_export.parity.cases import Case, make_inputs
from reformer_export.parity.expose import open_graph
from reformer_export.parity.graph_points import find_hashing
from reformer_export.parity.rounding import emulate_bfloat16
from reformer_export.reference.eager_values import attention_name
from reformer_export.runtimes.ort_session import Placement
from tests.export.test_export import export
from tests.hf_models import config_t, save_model


def is_bfloat16(values: NDArray[np.float32]) -> bool:
    """Whether each value is one that bfloat16 has: the lower half of its bits is zero."""
    return not (values.view(np.uint32) & 0xFFFF).any()


def run_pinned(out, ids, mask, buckets):
    """The output and what layer 1 hashes, with layer 1's buckets given."""
    attention = attention_name(1)
    with open_graph(out / "model.onnx", Placement()) as graph:
        points = find_hashing(graph.model, read_manifest(out).spec)
        exposed = graph.expose(points[-1:], points)
        inputs = {"input_ids": ids, "attention_mask": mask}
        got = exposed.run(inputs, {f"{attention}.buckets": buckets})
    return got["last_hidden_state"], got[f"{attention}.query_key"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Configuration T, a local and an LSH layer, in bfloat16: (checkpoint folder, artifact folder)."""
    root = tmp_path_factory.mktemp("bfloat16")
    folder = save_model(root, config_t(), transformers.ReformerModel)
    export(folder, root / "out", ExportOptions(dtype="bfloat16"))
    return folder, root / "out"


def test_values_between_nodes_are_rounded(exported):
    _, out = exported
    manifest = read_manifest(out)
    ids, mask = make_inputs(manifest.spec, Case(20, 2, masked=True), seed=0)
    output, query_key = run_pinned(out, ids, mask, np.zeros((2, 2, 2, 20), np.int32))
    assert is_bfloat16(query_key)
    assert is_bfloat16(output)


def test_the_roundings_are_those_of_bfloat16_kernels(exported):
    """On one chunk, where buckets do not matter: torch's own bfloat16, to one rounding."""
    folder, out = exported
    manifest = read_manifest(out)
    ids, mask = make_inputs(manifest.spec, Case(8, 3, masked=False), seed=0)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    with torch.no_grad():
        (expected,) = build_model(checkpoint.spec, checkpoint.weights, "bfloat16")(
            torch.from_numpy(ids), torch.from_numpy(mask)
        )
    got, _ = run_pinned(out, ids, mask, np.zeros((3, 2, 2, 8), np.int32))
    np.testing.assert_allclose(got, expected.float().numpy(), rtol=2**-7, atol=2**-8)
    assert np.mean(got == expected.float().numpy()) > 0.9


def test_the_graph_stays_valid_and_has_no_bfloat16_but_between_casts(exported):
    model = onnx.load(str(exported[1] / "model.onnx"))
    names = [value.name for value in model.graph.output]
    emulate_bfloat16(model)
    assert [value.name for value in model.graph.output] == names
    onnx.checker.check_model(model)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    half = {v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    assert half
    for node in model.graph.node:
        assert node.op_type == "Cast" or not half.intersection([*node.input, *node.output])
