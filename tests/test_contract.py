"""contract.py against the contract's text and against the function bodies."""

from __future__ import annotations

import pytest
from onnxscript import OnnxFunction

from reformer_export.contract import OPERATORS, Operator
from reformer_export.export import bodies
from tests.plugins.test_operators import read_contract


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_it_is_the_contract_of_the_text(operator: Operator) -> None:
    contract = read_contract(operator.name)
    assert (*operator.inputs, *operator.outputs) == tuple(name for name, *_ in contract.tensors)
    assert frozenset(operator.attributes) == contract.attributes


@pytest.mark.parametrize(
    ("operator", "body"), zip(OPERATORS, bodies.BODIES, strict=True), ids=lambda value: value.name
)
def test_the_function_bodies_take_what_it_says(operator: Operator, body: OnnxFunction) -> None:
    proto = bodies.function_body(body, 20)
    assert (proto.name, tuple(proto.input), tuple(proto.attribute)) == (
        operator.name,
        operator.inputs,
        operator.attributes,
    )
    assert len(proto.output) == len(operator.outputs)
