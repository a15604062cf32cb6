"""From the torch custom operators to nodes of domain `reformer`, and their function bodies into the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import onnx_ir as ir
import torch
from onnxscript import INT64, script
from onnxscript import opset18 as op

from reformer_export.contract import DOMAIN, VERSION
from reformer_export.export import bodies
from reformer_export.export.bodies.opsets import TRANSLATION
from reformer_export.export.int4_weights import dequantise_blocks_node

OF_A_ROW: Final = "OfARow"
"""After the name of an operator's body: its twin, which a step's body calls in a graph that has the operator
itself too. ONNX Runtime (1.32) names the values of both alike, those in the step's loop and those around it,
and then takes one for the other where it finds two of them equal."""


@script(TRANSLATION, default_opset=op)
def _divide_positions(position: INT64, stride: INT64) -> INT64:
    """Floor division of what is never negative, in integers: the exporter's own goes through float32, where a
    runtime that divides with an approximate reciprocal may end one below."""
    return op.Div(position, stride)


def custom_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` writes for each custom operator: one node of domain `reformer`; and for the
    integer division of positions."""
    operators = torch.ops.reformer
    return {
        operators.lsh_buckets.default: bodies.lsh_buckets_node,
        operators.lsh_attention.default: bodies.lsh_attention_node,
        operators.local_attention.default: bodies.local_attention_node,
        operators.residual_norm.default: bodies.residual_norm_node,
        operators.final_norm.default: bodies.final_norm_node,
        operators.lsh_attention_step.default: bodies.lsh_attention_step_node,
        operators.local_attention_step.default: bodies.local_attention_step_node,
        operators.lsh_buckets_step.default: bodies.lsh_buckets_step_node,
        operators.linear.default: bodies.linear_node,
        operators.dequantise_blocks.default: dequantise_blocks_node,
        torch.ops.aten.floor_divide.default: _divide_positions,
    }


def attach_function_bodies(model: ir.Model) -> None:
    """Store the function body of every `reformer` operator that the graph uses in the model, and of those
    that such a body calls."""
    opset = model.opset_imports[""]
    assert opset is not None
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    twins = {name: called for name, called in bodies.CALLED.items() if {name, called} <= used}
    used |= {bodies.CALLED[name] for name in used if name in bodies.CALLED}
    for operator in bodies.BODIES:
        if operator.name not in used:
            continue
        protos = [bodies.function_body(operator, opset)]
        if operator.name in twins.values():
            protos.append(bodies.function_body(operator, opset))
            protos[1].name += OF_A_ROW
        if operator.name in twins:
            _call_twin(protos[0].node, twins[operator.name])
        for proto in protos:
            function = ir.serde.deserialize_function(proto)
            model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION


def _call_twin(nodes: Iterable[Any], called: str) -> None:
    """Let the calls of an operator, in loops too, be calls of its twin."""
    for node in nodes:
        if (node.domain, node.op_type) == (DOMAIN, called):
            node.op_type += OF_A_ROW
        for attribute in node.attribute:
            _call_twin(attribute.g.node, called)
