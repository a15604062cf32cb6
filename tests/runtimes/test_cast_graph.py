from __future__ import annotations

import itertools

import onnx
import pytest
from onnx import helper

from reformer_export.runtimes.cast_graph import CAST_INPUT, CAST_OUTPUT, ELEMENT_TYPES, cast_model


@pytest.mark.parametrize(("source", "target"), itertools.permutations(ELEMENT_TYPES, 2))
def test_the_bytes_are_those_of_a_model_of_one_cast(source: str, target: str) -> None:
    node = helper.make_node("Cast", [CAST_INPUT], [CAST_OUTPUT], to=ELEMENT_TYPES[target])
    values = [
        helper.make_tensor_value_info(name, ELEMENT_TYPES[element_type], None)
        for name, element_type in ((CAST_INPUT, source), (CAST_OUTPUT, target))
    ]
    graph = helper.make_graph([node], "cast", values[:1], values[1:])
    opset = helper.make_opsetid("", 13)
    expected = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    assert onnx.load_model_from_string(cast_model(source, target)) == expected


def test_the_types_are_onnx_s() -> None:
    names = {"tensor(float)": "FLOAT"}
    for name, number in ELEMENT_TYPES.items():
        wanted = names.get(name, name.removeprefix("tensor(").removesuffix(")").upper())
        assert onnx.TensorProto.DataType.Name(number) == wanted
