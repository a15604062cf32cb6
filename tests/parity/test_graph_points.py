from __future__ import annotations

import onnx
import pytest

from reformer_export.errors import ArtifactError
from reformer_export.parity.graph_points import find_hashing, find_points, find_subgraph
from tests.parity.planted import LSH, split_norms


def test_the_graph_says_where_every_module_ends(artifacts) -> None:
    encoder = artifacts("encoder")
    model = onnx.load(str(encoder.folder / "model.onnx"))
    names = [point.name for point in find_points(model, encoder.manifest.spec)]
    assert len(names) == len(set(names)) == 5 + 13 + 12 + 1
    assert names[-1] == "encoder.layer_norm"
    earlier = onnx.ModelProto()
    earlier.CopyFrom(model)
    split_norms(earlier)
    names.append("encoder.layers.1.hidden_states")
    assert sorted(point.name for point in find_points(earlier, encoder.manifest.spec)) == sorted(names)
    for node in model.graph.node:
        del node.metadata_props[:]
    with pytest.raises(ArtifactError, match="got no node that says that it is embeddings"):
        find_points(model, encoder.manifest.spec)


def test_the_last_norm_has_the_rows_that_are_kept(artifacts) -> None:
    decoder = artifacts("decoder")
    model = onnx.load(str(decoder.folder / "model.onnx"))
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    (norm,) = (node for node in model.graph.node if node.op_type == "FinalNorm")
    assert [producers[name] for name in norm.input[:3]] == ["GatherElements"] * 3
    points = {point.name: point.value for point in find_points(model, decoder.manifest.spec)}
    (cast,) = (node for node in model.graph.node if norm.output[0] in node.input)  # feed-forward in slices
    assert (cast.op_type, points["encoder.layer_norm"]) == ("Cast", cast.output[0])


def test_hashes_are_found_without_modules_and_as_many_as_the_manifest_says(artifacts) -> None:
    encoder = artifacts("encoder")
    model, spec = onnx.load(str(encoder.folder / "model.onnx")), encoder.manifest.spec
    for node in model.graph.node:
        del node.metadata_props[:]
    assert [(point.name, point.layer, point.role) for point in find_hashing(model, spec)] == [
        ("last_hidden_state", None, "other"),
        (f"{LSH}.query_key", 1, "other"),
        (f"{LSH}.buckets", 1, "buckets"),
    ]
    (attends,) = (node for node in model.graph.node if node.op_type == "LSHAttention")
    attends.domain = "another"
    message = "got 1 LSHBuckets and 0 LSHAttention nodes, expected 1 of each as the manifest says"
    with pytest.raises(ArtifactError, match=message):
        find_hashing(model, spec)


def test_a_subgraph_is_named_after_what_computes(artifacts) -> None:
    encoder = artifacts("encoder")
    model = onnx.load(str(encoder.folder / "model.onnx"))
    points = find_points(model, encoder.manifest.spec)
    for point in points:
        named, others = find_subgraph(model, points, point)
        assert point.value in [name for node in (named, *others) for name in node.output]
        assert named not in others
    (attention,) = (point for point in points if point.name == LSH)
    assert find_subgraph(model, points, attention)[0].op_type == "LSHAttention"
    values = [point.value for point in points]
    bare = find_subgraph(model, [attention], attention)  # with nothing before it, all that leads to it
    assert len(bare[1]) > len(find_subgraph(model, points, attention)[1])
    assert len(values) == len(set(values))
