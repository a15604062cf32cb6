from __future__ import annotations

import dataclasses
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reformer_export.errors import MissingDependencyError
from reformer_export.parity.expose import expose_points, open_graph
from reformer_export.parity.points import Point, Role
from reformer_export.runtimes.ort_session import Placement

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


def point(name: str, role: Role = "other") -> Point:
    return Point(f"the {name}", name, 0, None, role, 1, TensorProto.FLOAT)


S, T, Y = map(point, "sty")


def test_a_given_point_is_read_in_place_of_the_graphs_own_which_is_shown(model, tmp_path) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    inputs, values = {"x": np.full(SIZE, 5.0, np.float32)}, {"the s": np.full(SIZE, 10.0, np.float32)}
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        got = graph.expose([S], [Y, S]).run(inputs, values)
        assert {name: set(value) for name, value in got.items()} == {"the y": {17.0}, "the s": {6.0}}
        assert set(graph.expose([], [S]).run(inputs, values)["the s"]) == {6.0}


def test_what_the_shown_points_do_not_need_goes(model, tmp_path) -> None:
    exposed = expose_points(model, [S], [T])
    assert [node.op_type for node in exposed.graph.node] == ["Mul"]
    assert [value.name for value in exposed.graph.input] == ["eager.the s"]
    assert [tensor.name for tensor in exposed.graph.initializer] == ["b"]
    assert len(model.graph.node) == 3
    onnx.save(model, str(tmp_path / "model.onnx"))
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        values = {"the s": np.ones(SIZE, np.float32), "the t": np.ones(SIZE, np.float32)}
        assert list(graph.expose([S, T], [T]).feeds({"x": values["the s"]}, values)) == ["eager.the s"]


@pytest.mark.parametrize(
    ("elem_type", "expected"),
    [
        (TensorProto.FLOAT, np.float32(1 / 3)),
        (TensorProto.FLOAT16, np.float16(1 / 3)),
        (TensorProto.BFLOAT16, np.float32(0.333984375)),
    ],
)
def test_values_are_given_in_the_graphs_type_and_rank(model, tmp_path, elem_type, expected) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    given = dataclasses.replace(S, rank=2, elem_type=elem_type)
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        feeds = graph.expose([given], [T]).feeds({}, {"the s": np.full((2, 3, 4), 1 / 3, np.float32)})
    (value,) = feeds.values()
    assert (value.shape, value.dtype, set(value.ravel())) == ((6, 4), expected.dtype, {expected})


def test_weights_leave_memory_and_come_back_for_what_is_extracted(model, tmp_path) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        assert graph.runnable.ByteSize() < 4 * SIZE < model.ByteSize()
        graph.expose([S], [T])
        weights = [path.stat().st_size for path in graph.folder.iterdir() if path.name == "weights"]
        assert weights == [3 * 4 * SIZE]
        extracted = graph.extract([S], [T])
    (weight,) = extracted.graph.initializer
    assert set(onnx.numpy_helper.to_array(weight)) == {2.0}
    assert not graph.folder.exists()


def test_without_the_surgeon_its_package_is_named(model, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[export\]'"):
        expose_points(model, [], [Y])
