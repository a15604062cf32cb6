from __future__ import annotations

import numpy as np
import onnx
import pytest

from reformer_export.errors import ArtifactError
from reformer_export.parity.pinned import PinnedGraph, check_hashing
from tests.parity.planted import CASE


def test_buckets_reach_the_attention_and_the_hashs_own_stand_beside(artifacts, tmp_path) -> None:
    with artifacts("encoder").open(None, tmp_path) as session:
        ids, mask = session.draw(CASE)
        truth = session.eager.run(ids, mask)
        graph = PinnedGraph(session.graph, session.spec)
        inputs = session.graph_inputs(ids, mask)
        run, other = (
            graph.run(inputs, {1: buckets}) for buckets in (truth.buckets[1], truth.buckets[1][::-1])
        )
        free = session.runtime.run(ids, mask)
    name = session.spec.output_names[0]
    assert np.array_equal(run.buckets[1], truth.buckets[1])
    assert np.array_equal(run.buckets[1], other.buckets[1])
    assert run.query_key[1].shape == (2, 20, 16)
    np.testing.assert_allclose(run.outputs[name], free[name], atol=1e-5)
    assert np.abs(run.outputs[name] - other.outputs[name]).max() > 1e-3


def test_a_graph_that_hashes_more_or_less_than_its_manifest_says_is_refused(artifacts) -> None:
    encoder = artifacts("encoder")
    model = onnx.load(str(encoder.folder / "model.onnx"))
    check_hashing(model, encoder.manifest.spec)
    (attends,) = (node for node in model.graph.node if node.op_type == "LSHAttention")
    attends.domain = "another"
    with pytest.raises(
        ArtifactError,
        match="got 1 LSHBuckets and 0 LSHAttention nodes, expected 1 of each as the manifest says",
    ):
        check_hashing(model, encoder.manifest.spec)
