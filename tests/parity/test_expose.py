from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reformer_export.errors import MissingDependencyError
from reformer_export.parity.expose import expose_values, open_graph
from reformer_export.runtimes.ort import Placement

SIZE = 1000


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = (x + a) * b - c, with vectors a, b, c and both inner values described."""
    names = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE]) for name in "xyst"}
    weights = [
        onnx.numpy_helper.from_array(np.full(SIZE, value, np.float32), name)
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("Mul", ["s", "b"], ["t"]),
        helper.make_node("Sub", ["t", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [names["x"]], [names["y"]], weights, value_info=[names["s"], names["t"]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_given_value_is_read_in_place_of_the_graphs_own_which_is_shown(model, tmp_path) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    feeds = {"x": np.full(SIZE, 5.0, np.float32), "given": np.full(SIZE, 10.0, np.float32)}
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        exposed = graph.expose({"s": "given"}, ["y", "s"])
        got = exposed.run(feeds)
        assert (exposed.inputs, exposed.outputs) == (("x", "given"), ("y", "s"))
        assert {name: set(value) for name, value in got.items()} == {"y": {17.0}, "s": {6.0}}
        assert graph.expose({}, ["s"]).run(feeds)["s"][0] == 6.0


def test_what_the_shown_values_do_not_need_goes(model) -> None:
    exposed = expose_values(model, {"s": "given"}, ["t"])
    assert [node.op_type for node in exposed.graph.node] == ["Mul"]
    assert [value.name for value in exposed.graph.input] == ["given"]
    assert [tensor.name for tensor in exposed.graph.initializer] == ["b"]
    assert len(model.graph.node) == 3


def test_weights_leave_memory_and_come_back_for_what_is_extracted(model, tmp_path) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        assert graph.runnable.ByteSize() < 4 * SIZE < model.ByteSize()
        graph.expose({"s": "given"}, ["t"])
        weights = [path.stat().st_size for path in graph.folder.iterdir() if path.name == "weights"]
        assert weights == [3 * 4 * SIZE]
        extracted = graph.extract({"s": "given"}, ["t"])
    (weight,) = extracted.graph.initializer
    assert set(onnx.numpy_helper.to_array(weight)) == {2.0}
    assert not graph.folder.exists()


def test_without_the_surgeon_its_package_is_named(model, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[export\]'"):
        expose_values(model, {}, ["y"])
