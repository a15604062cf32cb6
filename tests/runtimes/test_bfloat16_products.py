"""Dense layers of bfloat16 graphs as Linear nodes: which are taken, and that the graph computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from reformer_export.runtimes.bfloat16_products import multiply_in_bfloat16
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY
from reformer_export.runtimes.upcast import upcast_in_place
from tests.runtimes.dense_graphs import ADD, ALONE, BF16, MATMUL, NOT_TAKEN, WT, B, W, make_model, run, tensor


def rewrite(nodes, outputs, initializers):
    """The graph's operators when rewritten, whose results were compared with those of the graph as it is."""
    exact, rewritten = (make_model(nodes, outputs, initializers) for _ in range(2))
    upcast_in_place(exact)
    kept = multiply_in_bfloat16(rewritten)
    upcast_in_place(rewritten, kept)
    said = {(each.key, each.value) for each in rewritten.metadata_props}
    assert said == ({(PRODUCTS_KEY, "bfloat16")} if kept else set())
    assert kept == {each.name for each in rewritten.graph.initializer if each.data_type == BF16}
    for got, wanted in zip(run(rewritten), run(exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in rewritten.graph.node], rewritten


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


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_what_linear_does_not_compute_stays(case):
    nodes = NOT_TAKEN[case]
    names = {name for node in nodes for name in node.input}
    initializers = [each for each in (W, WT, B, tensor("row", 1)) if each.name in names]
    operators, _ = rewrite(nodes, ["y"], initializers)
    assert operators[-1] == nodes[-1].op_type


def test_defaults_of_inputs_and_names_that_are_taken_stay():
    default = make_model([MATMUL, ADD], ["sum"], [W, B, tensor("unread", 3)])
    default.graph.input.append(helper.make_tensor_value_info("unread", BF16, [3]))
    assert multiply_in_bfloat16(default) == {"sum.weight.bfloat16"}
    assert {each.name for each in default.graph.initializer} == {"b", "unread", "sum.weight.bfloat16"}
    default = make_model([MATMUL, ADD], ["sum"], [W, B])
    default.graph.input.append(helper.make_tensor_value_info("w", BF16, [6, 5]))
    assert multiply_in_bfloat16(default) == frozenset()
    minus = helper.make_node("Sub", ["sum", "sum.weight.bfloat16"], ["y"])
    taken = make_model([MATMUL, ADD, minus], ["y"], [W, B, tensor("sum.weight.bfloat16", 5)])
    assert multiply_in_bfloat16(taken) == frozenset()


def test_other_types_stay():
    model = make_model([MATMUL], ["product"], [W])
    upcast_in_place(model)
    before = model.SerializeToString(deterministic=True)
    assert multiply_in_bfloat16(model) == frozenset()
    assert model.SerializeToString(deterministic=True) == before
