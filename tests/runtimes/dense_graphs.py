"""Graphs of dense layers, and an evaluator that knows Linear."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from reformer_export.ops import linear_reference

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

NOT_TAKEN = {
    "tanh gelu": [GEMM, helper.make_node("Gelu", ["sum"], ["y"], approximate="tanh")],
    "a bias of another shape": [MATMUL, helper.make_node("Add", ["product", "row"], ["y"])],
    "alpha": [helper.make_node("Gemm", ["x", "wt", "b"], ["y"], transB=1, alpha=0.5)],
    "two values": [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Mul", ["p", "p"], ["y"])],
}
