from __future__ import annotations

import dataclasses
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from reformer_export.errors import MissingDependencyError
from reformer_export.parity import expose
from reformer_export.parity.expose import WEIGHTS_NAME, expose_points, open_graph
from reformer_export.parity.points import Point, Role
from reformer_export.runtimes import ort_binding
from reformer_export.runtimes.ort_session import CUDA, Placement, open_graph_bytes, open_session

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


@pytest.fixture
def bfloat16_model() -> onnx.ModelProto:
    """y = x in bfloat16, reshaped: operators that the CPU has in bfloat16 too."""
    half = TensorProto.BFLOAT16
    names = {
        "x": helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        "s": helper.make_tensor_value_info("s", half, [2, 3]),
        "t": helper.make_tensor_value_info("t", half, [3, 2]),
        "y": helper.make_tensor_value_info("y", half, [6]),
    }
    shapes = [
        onnx.numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("to_t", [3, 2]), ("to_y", [6]))
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["s"], to=half),
        helper.make_node("Reshape", ["s", "to_t"], ["t"]),
        helper.make_node("Reshape", ["t", "to_y"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [names["x"]], [names["y"]], shapes, value_info=[names["s"], names["t"]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_bfloat16_stays_bfloat16_on_a_gpu(bfloat16_model, tmp_path, monkeypatch) -> None:
    """numpy has none: values are given and shown in float32. The provider is a stand-in."""
    opened = []

    def open_on_cpu(path, placement, fuses_dense):
        opened.append(placement)
        return open_session(path)

    monkeypatch.setattr(expose, "open_session", open_on_cpu)
    monkeypatch.setattr(
        ort_binding, "open_graph_bytes", lambda model, _: open_graph_bytes(model, Placement())
    )
    onnx.save(bfloat16_model, str(tmp_path / "model.onnx"))
    s, t, y = (
        dataclasses.replace(point(name), rank=rank, elem_type=TensorProto.BFLOAT16)
        for name, rank in (("s", 2), ("t", 2), ("y", 1))
    )
    x = np.array([[1, 1 + 2**-7, 1 + 2**-8], [1 / 3, -2, 1e38]], np.float32)
    rounded = torch.from_numpy(x).bfloat16().float().numpy()
    with open_graph(tmp_path / "model.onnx", Placement(CUDA)) as graph:
        monkeypatch.setattr(Placement, "device", "cpu")
        assert graph.runnable.graph.output[0].type.tensor_type.elem_type == TensorProto.BFLOAT16
        whole = graph.expose([], [s, y]).run({"x": x}, {})
        alone = graph.expose([s, t], [t, y]).run({"x": x}, {"the s": x, "the t": 2 * x.reshape(3, 2)})
    assert [placement.provider for placement in opened] == [CUDA] * 2
    assert {value.dtype for value in (*whole.values(), *alone.values())} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(whole["the s"], rounded)
    np.testing.assert_array_equal(whole["the y"], rounded.ravel())
    np.testing.assert_array_equal(alone["the t"], rounded.reshape(3, 2))
    np.testing.assert_array_equal(alone["the y"], 2 * rounded.ravel())


def test_weights_leave_memory_and_come_back_for_what_is_extracted(model, tmp_path) -> None:
    onnx.save(model, str(tmp_path / "model.onnx"))
    with open_graph(tmp_path / "model.onnx", Placement()) as graph:
        assert graph.runnable.ByteSize() < 4 * SIZE < model.ByteSize()
        graph.expose([S], [T])
        weights = [path.stat().st_size for path in graph.folder.iterdir() if path.name == WEIGHTS_NAME]
        assert weights == [3 * 4 * SIZE]
        extracted = graph.extract([S], [T])
    (weight,) = extracted.graph.initializer
    assert set(onnx.numpy_helper.to_array(weight)) == {2.0}
    assert not graph.folder.exists()


def test_without_the_surgeon_its_package_is_named(model, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[export\]'"):
        expose_points(model, [], [Y])
