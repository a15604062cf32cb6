"""plugins/adapters/operators.h, what both adapters say of the operators, against the contract's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from reformer_export import contract

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "plugins/adapters/operators.h").read_text()
CONTRACT = (ROOT / "docs/operators.md").read_text()
OPERATORS = tuple(operator.name for operator in contract.OPERATORS)
LETTERS = {"H*D": "W", "H or 1": "G", "R*W": "K", "2N": "C", "...": "M"}
"""How the header spells a size that is no single letter."""


@dataclass(frozen=True)
class Operator:
    """`tensors` are the inputs and then the outputs: name, element type, one letter a dimension."""

    tensors: tuple[tuple[str, str, str], ...]
    attributes: frozenset[str]


def read_header(name: str) -> Operator:
    """The struct called `name`."""
    body = HEADER[HEADER.index(f"struct {name} {{") :]
    body = body[: body.index("\n};")]
    tensors = re.findall(r'\{\{"(\w+)", Element::k(\w+), "(\w+)"\},\s*&Params::(\w+)\}', body)
    assert tensors
    assert [field for *_, field in tensors] == [name for name, *_ in tensors]
    return Operator(
        tuple((name, kind.lower(), shape) for name, kind, shape, _ in tensors), read_attributes(body)
    )


def read_attributes(code: str) -> frozenset[str]:
    """Those that the code reads, and those of the functions it leaves some to."""
    attributes = frozenset(re.findall(r'reader\.\w+\("(\w+)"', code))
    for shared in re.findall(r"\b(read_\w+)\(reader, ", code):
        body = HEADER[HEADER.index(f"void {shared}(") :]
        attributes |= read_attributes(body[: body.index("\n}")])
    return attributes


def read_contract(name: str) -> Operator:
    """The section called `name`: its signature, then a paragraph that names its attributes."""
    section = CONTRACT.split(f"## {name}\n")[1]
    signature, attributes = section.strip("\n").split("\n\n")[:2]
    tensors = []
    for names, kind, shape in re.findall(r"(\w+(?:, \w+)*) (T|float32|int32|int8) \[([^\]]+)\]", signature):
        letters = "".join(LETTERS.get(size, size) for size in shape.split(", "))
        tensors += [(tensor, kind.lower(), letters) for tensor in names.split(", ")]
    listed = frozenset(re.findall(r"`(\w+)`", attributes))
    return Operator(tuple(tensors), listed)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adapters_describe_the_contract(name: str) -> None:
    assert read_header(name) == read_contract(name)


def read_list(name: str) -> list[str]:
    (names,) = re.findall(rf"{name} =\s+OperatorList<([^>]+)>", HEADER)
    return re.split(r",\s*", names)


def test_the_adapters_offer_these_operators() -> None:
    assert read_list("AllOperators") == list(OPERATORS)
    on_cuda = re.findall(r"kCUDA = ", HEADER)
    assert read_list("CUDAOperators") == list(OPERATORS)[: len(on_cuda)]
    plugins = [operator.name for operator in contract.OPERATORS if operator.has_plugin]
    assert read_list("PluginOperators") == plugins
    assert re.findall(r'kName = "(\w+)"', HEADER) == list(OPERATORS)
    domain, version = re.findall(r'constexpr const char\* k(?:Domain|OperatorVersion) = "(\w+)"', HEADER)
    assert f"Domain `{domain}`, version {version}." in CONTRACT
