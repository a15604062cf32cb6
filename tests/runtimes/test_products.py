"""Dense layers as Linear nodes: which are taken, and that the graph computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from reformer_export.errors import MissingDependencyError
from reformer_export.ops import linear_reference
from reformer_export.runtimes import dense_layers, products
from reformer_export.runtimes.dense_layers import fuse_dense_layers
from reformer_export.runtimes.products import multiply_with_linear
from reformer_export.runtimes.upcast import upcast_in_place

BF16 = TensorProto.BFLOAT16


class Linear(OpRun):
    op_domain = "reformer"

    def _run(self, x, weight, scales=None, bias=None, activation=0):
        assert scales is None
        if weight.dtype == np.float32:
            weight = torch.from_numpy(weight.copy())
        else:
            assert weight.dtype.name == "bfloat16"
            weight = torch.from_numpy(weight.view(np.int16).copy()).view(torch.bfloat16)
        bias = None if bias is None else torch.from_numpy(bias.copy())
        return (linear_reference(torch.from_numpy(x), weight, None, bias, activation).numpy(),)


def tensor(name, *shape):
    values = np.random.default_rng(len(name) + shape[0]).standard_normal(shape).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    return TensorProto(name=name, data_type=BF16, dims=shape, raw_data=bits.tobytes())


def make_model(nodes, outputs, initializers):
    values = [helper.make_tensor_value_info("x", BF16, [2, 6])]
    values += [helper.make_tensor_value_info(name, BF16, None) for name in outputs]
    graph = helper.make_graph(nodes, "dense", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("reformer", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model):
    x = np.arange(-6, 6, dtype=np.float32).reshape(2, 6) / 4  # exact in bfloat16
    return ReferenceEvaluator(model, new_ops=[Linear]).run(None, {"x": x})


def rewrite(nodes, outputs, initializers):
    """The graph's operators when rewritten, whose results were compared with those of the graph as it is."""
    exact, rewritten = (make_model(nodes, outputs, initializers) for _ in range(2))
    upcast_in_place(exact)
    kept = multiply_with_linear(rewritten, "bfloat16")
    upcast_in_place(rewritten, kept)
    assert kept == {each.name for each in rewritten.graph.initializer if each.data_type == BF16}
    for got, wanted in zip(run(rewritten), run(exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in rewritten.graph.node], rewritten


MATMUL = helper.make_node("MatMul", ["x", "w"], ["product"])
ADD = helper.make_node("Add", ["product", "b"], ["sum"])
GEMM = helper.make_node("Gemm", ["x", "wt", "b"], ["sum"], transB=1)
W, WT, B = tensor("w", 6, 5), tensor("wt", 5, 6), tensor("b", 5)
ALONE = {
    "product": ([MATMUL], "product", [W]),
    "product and bias": ([MATMUL, ADD], "sum", [W, B]),
    "bias first": ([MATMUL, helper.make_node("Add", ["b", "product"], ["sum"])], "sum", [W, B]),
    "relu": ([MATMUL, ADD, helper.make_node("Relu", ["sum"], ["y"])], "y", [W, B]),
    "gemm": ([GEMM], "sum", [WT, B]),
    "gemm, not turned": ([helper.make_node("Gemm", ["x", "w", "b"], ["sum"])], "sum", [W, B]),
    "gemm without bias": ([helper.make_node("Gemm", ["x", "wt"], ["sum"], transB=1)], "sum", [WT]),
    "gelu": ([GEMM, helper.make_node("Gelu", ["sum"], ["y"], approximate="none")], "y", [WT, B]),
}


@pytest.mark.parametrize("case", ALONE)
def test_one_node_takes_a_whole_dense_layer(case):
    nodes, output, initializers = ALONE[case]
    operators, model = rewrite(nodes, [output], initializers)
    assert operators == ["Linear"]
    assert len(model.graph.initializer) == len(initializers)


def test_what_is_read_elsewhere_stays():
    relu, reshaped = helper.make_node("Relu", ["sum"], ["y"]), helper.make_node("Neg", ["sum"], ["z"])
    operators, _ = rewrite([MATMUL, ADD, relu, reshaped], ["y", "z"], [W, B])
    assert operators == ["Linear", "Relu", "Neg"]
    operators, _ = rewrite([MATMUL, ADD], ["product", "sum"], [W, B])
    assert operators == ["Linear", "Add"]
    table = helper.make_node("Neg", ["w"], ["negative"])
    operators, model = rewrite([MATMUL, table], ["product", "negative"], [W])
    assert operators == ["Linear", "Neg"]
    assert len(model.graph.initializer) == 2  # the weight, and the table in float32


NOT_TAKEN = {
    "tanh gelu": [GEMM, helper.make_node("Gelu", ["sum"], ["y"], approximate="tanh")],
    "a bias of another shape": [MATMUL, helper.make_node("Add", ["product", "row"], ["y"])],
    "alpha": [helper.make_node("Gemm", ["x", "wt", "b"], ["y"], transB=1, alpha=0.5)],
    "two values": [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Mul", ["p", "p"], ["y"])],
}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_what_linear_does_not_compute_stays(case):
    nodes = NOT_TAKEN[case]
    names = {name for node in nodes for name in node.input}
    initializers = [each for each in (W, WT, B, tensor("row", 1)) if each.name in names]
    operators, _ = rewrite(nodes, ["y"], initializers)
    assert operators[-1] == nodes[-1].op_type


def make_float32_model(nodes, outputs, initializers):
    model = make_model(nodes, outputs, initializers)
    upcast_in_place(model)
    return model


@pytest.mark.parametrize("case", ALONE)
def test_float32_layers_are_taken_where_something_follows_the_product(case):
    nodes, output, initializers = ALONE[case]
    exact, rewritten = (make_float32_model(nodes, [output], initializers) for _ in range(2))
    weights = multiply_with_linear(rewritten, "float32")
    for got, wanted in zip(run(rewritten), run(exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    operators = [node.op_type for node in rewritten.graph.node]
    if case in ("product", "gemm without bias"):
        assert (operators, weights) == ([nodes[0].op_type], frozenset())
    else:
        assert operators == ["Linear"]
        assert {tuple(each.dims) for each in rewritten.graph.initializer if each.name in weights} == {(5, 6)}


def test_large_float32_weights_stay(monkeypatch):
    for most, operators in ((30, ["Linear"]), (29, ["MatMul", "Add"])):
        monkeypatch.setattr(products, "MOST_FLOAT32_NUMBERS", most)
        model = make_float32_model([MATMUL, ADD], ["sum"], [W, B])
        multiply_with_linear(model, "float32")
        assert [node.op_type for node in model.graph.node] == operators


def test_a_file_is_opened_as_it_is_where_nothing_is_to_be_gained(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(make_float32_model([MATMUL], ["product"], [W]).SerializeToString())
    assert fuse_dense_layers(path) is None  # no layer
    path.write_bytes(make_float32_model([MATMUL, ADD], ["sum"], [W, B]).SerializeToString())
    assert b"Linear" in fuse_dense_layers(path)
    (tmp_path / "model.onnx.data").write_bytes(b"0" * 1000)
    monkeypatch.setattr(dense_layers, "MOST_BYTES", path.stat().st_size + 999)
    assert fuse_dense_layers(path) is None  # large
    (tmp_path / "model.onnx.data").unlink()

    def refuse():
        raise MissingDependencyError("onnx", "'none'", "the package", "pip install it")

    monkeypatch.setattr(dense_layers, "import_onnx", refuse)
    assert fuse_dense_layers(path) is None


def test_other_types_stay():
    model = make_model([MATMUL], ["product"], [W])
    upcast_in_place(model)
    before = model.SerializeToString(deterministic=True)
    assert multiply_with_linear(model, "bfloat16") == frozenset()
    assert model.SerializeToString(deterministic=True) == before
