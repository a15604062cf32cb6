"""An operator's onnxscript function -> the FunctionProto that is stored in a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import onnx
from onnxscript import OnnxFunction

from reformer_export.contract import DOMAIN, VERSION

ALWAYS: Final = "always"
"""Name of the constant that is every loop's condition."""

_NUMBER: Final = re.compile(r"_\d+\Z")
"""What onnxscript adds to a variable's name each time that it is assigned."""

_LOOP_INPUTS: Final = 2
"""The inputs of a Loop, and of its body, before those that it carries: trips or index, and condition."""


def function_body(function: OnnxFunction, opset: int) -> onnx.FunctionProto:
    """The FunctionProto of `function`, for a model of opset 18 or later: the same in every process.

    The operators that the bodies use mean the same in all of these opsets. onnxscript leaves a loop's
    condition empty, which ONNX's reference evaluator takes for false: it is spelled out here, as is the
    domain of a body that calls another operator.
    """
    proto = function.to_function_proto()
    for opset_import in proto.opset_import:
        if opset_import.domain == "":
            opset_import.version = opset
    if _calls(proto.node, DOMAIN):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    if _set_conditions(proto.node):
        true = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
        proto.node.insert(0, onnx.helper.make_node("Constant", [], [ALWAYS], value=true))
    _sort_carried(proto.node)
    _renumber(proto)
    return proto


def _set_conditions(nodes: Iterable[Any]) -> bool:
    """Set the empty conditions of all loops, nested ones too; whether there were any."""
    found = False
    for node in nodes:
        if node.op_type == "Loop" and not node.input[1]:
            node.input[1] = ALWAYS
            found = True
        for graph in _graphs(node):
            found |= _set_conditions(graph.node)
    return found


def _calls(nodes: Iterable[Any], domain: str) -> bool:
    """Whether there is a node of `domain`, in loops too."""
    return any(
        node.domain == domain or any(_calls(graph.node, domain) for graph in _graphs(node)) for node in nodes
    )


def _graphs(node: Any) -> list[Any]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _sort_carried(nodes: Iterable[Any]) -> None:
    """Let every loop carry its variables by name, and every branch give its: onnxscript takes them from a
    set, whose order is that of the process's hash seed."""
    for node in nodes:
        graphs = _graphs(node)
        for graph in graphs:
            _sort_carried(graph.node)
        if node.op_type == "Loop":
            (graph,) = graphs
            inputs = [(node.input, _LOOP_INPUTS), (graph.input, _LOOP_INPUTS)]
            _sort_by_name(node.input[_LOOP_INPUTS:], [*inputs, (node.output, 0), (graph.output, 1)])
        elif node.op_type == "If":
            _sort_by_name(node.output, [(node.output, 0), *((graph.output, 0) for graph in graphs)])


def _sort_by_name(names: Iterable[str], lists: Iterable[tuple[Any, int]]) -> None:
    """Order what each of `lists` has for `names`, from its own place on, by the variables' names."""
    variables = [_NUMBER.sub("", name) for name in names]
    order = sorted(range(len(variables)), key=variables.__getitem__)
    for values, first in lists:
        sorted_ones = [list(values)[first + index] for index in order]
        rest = list(values)[first + len(order) :]
        del values[first:]
        values.extend([*sorted_ones, *rest])


def _renumber(proto: onnx.FunctionProto) -> None:
    """Number the values anew, in the order in which they are defined."""
    names: dict[str, str] = {}

    def define(name: str) -> str:
        if name not in names:
            numbered = _NUMBER.search(name) is not None
            names[name] = f"{_NUMBER.sub('', name)}_{len(names)}" if numbered else name
        return names[name]

    def visit(nodes: Iterable[Any]) -> None:
        for node in nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            for graph in _graphs(node):
                for value in graph.input:
                    value.name = define(value.name)
                visit(graph.node)
                for value in graph.output:
                    value.name = names.get(value.name, value.name)
            node.output[:] = [define(name) for name in node.output]

    for name in (*proto.input, *proto.output):
        names[name] = name
    visit(proto.node)
    if len(set(names.values())) != len(names):
        raise AssertionError(f"two values of {proto.name} have one name")
