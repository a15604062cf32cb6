"""Dense layers of float32 files as Linear nodes: which are taken, and that the graph computes the same."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reformer_export.runtimes import float32_products
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY
from reformer_export.runtimes.float32_products import fuse_dense_layers
from reformer_export.runtimes.ort_session import Placement, open_session
from reformer_export.runtimes.upcast import upcast_in_place
from tests.ops.test_native_linear import require_products
from tests.runtimes.dense_graphs import ADD, ALONE, GEMM, MATMUL, NOT_TAKEN, WT, B, W, make_model, run, tensor


def make_float32_model(nodes, outputs, initializers):
    model = make_model(nodes, outputs, initializers)
    upcast_in_place(model)
    return model


def fuse(path, model):
    """The model as it is opened: None as it lies in the file. What it computes was compared."""
    path.write_bytes(model.SerializeToString())
    fused = fuse_dense_layers(path)
    if fused is None:
        return None
    found = onnx.load_model_from_string(fused)
    for got, wanted in zip(run(found), run(model), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert {each.key: each.value for each in found.metadata_props} == {PRODUCTS_KEY: "float32"}
    return found


@pytest.mark.parametrize("case", ALONE)
def test_one_node_takes_a_whole_dense_layer(tmp_path, case):
    nodes, output, initializers = ALONE[case]
    found = fuse(tmp_path / "model.onnx", make_float32_model(nodes, [output], initializers))
    assert [node.op_type for node in found.graph.node] == ["Linear"]
    shapes = sorted(list(each.dims) for each in found.graph.initializer)
    assert shapes == [[5]] * (len(initializers) - 1) + [[5, 6]]


def test_what_is_read_elsewhere_stays(tmp_path):
    """By a node, by a branch, and as an output."""
    relu, negative = helper.make_node("Relu", ["sum"], ["y"]), helper.make_node("Neg", ["sum"], ["z"])
    found = fuse(tmp_path / "a.onnx", make_float32_model([MATMUL, ADD, relu, negative], ["y", "z"], [W, B]))
    assert [node.op_type for node in found.graph.node] == ["Linear", "Relu", "Neg"]
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", ["sum"], ["inner"])], "branch", [], [value])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    choice = helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    found = fuse(
        tmp_path / "b.onnx", make_float32_model([MATMUL, ADD, choice, relu], ["y", "z"], [W, B, yes])
    )
    assert [node.op_type for node in found.graph.node] == ["Linear", "If", "Relu"]
    found = fuse(tmp_path / "c.onnx", make_float32_model([MATMUL, ADD], ["product", "sum"], [W, B]))
    assert [node.op_type for node in found.graph.node] == ["Linear", "Add"]
    table = helper.make_node("Neg", ["w"], ["negative"])
    found = fuse(tmp_path / "d.onnx", make_float32_model([MATMUL, ADD, table], ["sum", "negative"], [W, B]))
    assert {each.name for each in found.graph.initializer} == {"w", "b", "w.turned.float32"}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_what_linear_does_not_compute_stays(tmp_path, case):
    nodes = NOT_TAKEN[case]
    names = {name for node in nodes for name in node.input}
    initializers = [each for each in (W, WT, B, tensor("row", 1)) if each.name in names]
    found = fuse(tmp_path / "model.onnx", make_float32_model(nodes, ["y"], initializers))
    assert found is None or found.graph.node[-1].op_type == nodes[-1].op_type


def test_a_weight_that_a_caller_may_give_stays(tmp_path):
    model = make_float32_model([MATMUL, ADD], ["sum"], [W, B])
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 5]))
    assert fuse(tmp_path / "model.onnx", model) is None


def test_a_default_that_nothing_reads_stays(tmp_path):
    """Else the input, which a caller may leave out, would be one that he must give."""
    model = make_float32_model([MATMUL, ADD], ["sum"], [W, B, tensor("unread", 3)])
    model.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, [3]))
    found = fuse(tmp_path / "model.onnx", model)
    assert {each.name for each in found.graph.initializer} == {"b", "unread", "w.turned.float32"}


def test_names_that_are_taken_stay(tmp_path):
    """That of Linear's weight, and one that is a constant and a node's result as well."""
    other = tensor("w.turned.float32", 5)
    minus = helper.make_node("Sub", ["sum", "w.turned.float32"], ["y"])
    assert fuse(tmp_path / "a.onnx", make_float32_model([MATMUL, ADD, minus], ["y"], [W, B, other])) is None
    model = make_float32_model([MATMUL, ADD], ["sum"], [W, B])
    value = onnx.numpy_helper.from_array(np.ones((6, 5), np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=value))
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    assert fuse_dense_layers(tmp_path / "b.onnx") is None


def test_what_protobuf_joins_or_leaves_out(tmp_path):
    """A graph in two parts, and external data of a weight whose data are in the file."""
    whole = make_float32_model([MATMUL, ADD], ["sum"], [W, B])
    rest = onnx.ModelProto()
    rest.graph.node.append(helper.make_node("Relu", ["product"], ["y"]))
    (tmp_path / "a.onnx").write_bytes(whole.SerializeToString() + rest.SerializeToString())
    assert fuse_dense_layers(tmp_path / "a.onnx") is None
    whole.graph.initializer[0].external_data.add(key="location", value="nowhere")
    assert fuse(tmp_path / "b.onnx", whole) is not None


def test_large_weights_and_files_stay(tmp_path, monkeypatch):
    path, model = tmp_path / "model.onnx", make_float32_model([GEMM], ["sum"], [WT, B])
    monkeypatch.setattr(float32_products, "MOST_NUMBERS", 29)
    assert fuse(path, model) is None
    monkeypatch.setattr(float32_products, "MOST_NUMBERS", 30)
    assert fuse(path, model) is not None
    (tmp_path / "model.onnx.data").write_bytes(b"0" * 1000)
    monkeypatch.setattr(float32_products, "MOST_BYTES", path.stat().st_size + 999)
    assert fuse(path, model) is None


def test_other_types_stay(tmp_path):
    model = make_model([MATMUL, ADD], ["sum"], [W, B])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert fuse_dense_layers(tmp_path / "model.onnx") is None


def test_weights_in_external_data(tmp_path):
    model, path = make_float32_model([MATMUL, ADD], ["sum"], [W, B]), tmp_path / "model.onnx"
    wanted = run(model)
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    found = onnx.load_model_from_string(fuse_dense_layers(path))
    onnx.load_external_data_for_model(found, str(tmp_path))
    np.testing.assert_allclose(run(found)[0], wanted[0], rtol=1e-5, atol=1e-5)
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    assert fuse_dense_layers(path) is None
    (tmp_path / "model.onnx.data").unlink()
    assert fuse_dense_layers(path) is None
    os.mkfifo(tmp_path / "model.onnx.data")  # which nobody writes to
    assert fuse_dense_layers(path) is None


def test_a_weight_of_several_layers_is_written_once_and_many_of_one_piece_of_data_stay(tmp_path, monkeypatch):
    """A small file must not become a large model."""
    again = helper.make_node("MatMul", ["x", "w"], ["again"])
    found = fuse(tmp_path / "a.onnx", make_float32_model([MATMUL, ADD, again], ["sum", "again"], [W, B]))
    assert [node.op_type for node in found.graph.node] == ["Linear", "Linear"]
    assert [each.name for each in found.graph.initializer if len(each.dims) == 2] == ["w.turned.float32"]
    path = tmp_path / "b.onnx"
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(40)]
    weights = [tensor(f"w{i}", 6, 5) for i in range(40)]
    model = make_float32_model(nodes, [node.output[0] for node in nodes], weights)
    onnx.save(model, str(path), save_as_external_data=True, location="b.onnx.data", size_threshold=0)
    model = onnx.load(str(path), load_external_data=False)
    for each in model.graph.initializer:
        del each.external_data[:]
        each.external_data.add(key="location", value="b.onnx.data")
    path.write_bytes(model.SerializeToString())
    (tmp_path / "b.onnx.data").write_bytes(bytes(120))
    for most, is_fused in ((40 * 120, True), (40 * 120 - 1, False)):
        monkeypatch.setattr(float32_products, "MOST_BYTES", most)
        assert path.stat().st_size + 120 < most
        assert (fuse_dense_layers(path) is not None) is is_fused


def test_what_linear_refuses_is_opened_as_it_is(tmp_path):
    """A bias that lies at an odd address, where the file is mapped."""
    placement = Placement(library=require_products("float32"))
    model, path = make_float32_model([MATMUL, ADD], ["sum"], [W, B]), tmp_path / "model.onnx"
    (tmp_path / "bias").write_bytes(b"0" + model.graph.initializer[1].raw_data)
    x = np.ones((2, 6), np.float32)
    path.write_bytes(model.SerializeToString())
    (wanted,) = open_session(path, placement).run(None, {"x": x})
    model.graph.initializer[1].ClearField("raw_data")
    model.graph.initializer[1].data_location = TensorProto.EXTERNAL
    for key, value in {"location": "bias", "offset": "1", "length": "20"}.items():
        model.graph.initializer[1].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    assert fuse_dense_layers(path) is not None
    np.testing.assert_allclose(open_session(path, placement).run(None, {"x": x})[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x3a\x05abc", b"\x3a\x04\x0a\x02\x0a\xff"])
def test_what_is_no_model_is_left_to_onnx_runtime(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    assert fuse_dense_layers(tmp_path / "model.onnx") is None
