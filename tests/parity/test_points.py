from __future__ import annotations

import onnx
import pytest

from reformer_export.errors import ArtifactError
from reformer_export.parity.points import find_points


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
