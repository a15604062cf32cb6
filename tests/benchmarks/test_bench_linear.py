"""What `bench_linear` writes opens on another machine, where nothing is but its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import linear_run
from benchmarks.bench_linear import strip_weights


def make_model() -> onnx.ModelProto:
    """A layer whose weight is drawn, with a bias and a shape that are not."""
    constants = {
        "weight": np.full((64, 256), 0.5, np.float32),
        "bias": np.arange(256, dtype=np.float32),
        "shape": np.array([-1, 128], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_graphs_open_without_the_files_that_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder, moved = (tmp_path / name for name in ("source", "folder", "moved"))
    source.mkdir()
    folder.mkdir()
    path = source / "model.onnx"
    onnx.save(make_model(), str(path), save_as_external_data=True, location="data", size_threshold=0)
    graph = strip_weights(onnx.load(str(path), load_external_data=False), source, folder, "layer")
    for left in source.iterdir():
        left.unlink()
    folder.rename(moved)
    assert {file.name for file in moved.iterdir()} == {"layer.onnx"}
    assert [(each["count"], each["type"]) for each in graph["tensors"]] == [(64 * 256, "float32")]
    assert graph["bytes"] == 64 * 256 * 4
    monkeypatch.setattr(linear_run, "FOLDER", moved)
    linear_run.draw_weights(graph)
    session = onnxruntime.InferenceSession(str(moved / graph["file"]), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros((1, 64), np.float32)})
    np.testing.assert_array_equal(y, np.arange(256, dtype=np.float32).reshape(2, 128))
