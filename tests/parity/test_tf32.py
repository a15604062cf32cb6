"""TF32 is judged by its own rounding: float16's tolerance and flips, as docs/parity.md derives them.

No CPU multiplies in TF32: here the operands of every product are rounded to its ten bits of mantissa in the
graph itself, as a GPU's tensor cores see them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import EPSILON, TOLERANCE
from reformer_export.parity.session import ParitySession, open_session
from reformer_export.parity.sweep import sweep
from tests.export.test_export import export

SHIPPED = Path(__file__).parents[2] / "models" / "kjv-bytes"
CASES = [Case(200, 2, masked=True), Case(512, 2, masked=True)]
SPLIT = np.float32(2**13 + 1)
"""Veltkamp's: c = SPLIT * x, c - (c - x) is x rounded to 24 - 13 = 11 significant bits."""
SHARE = 0.5
"""Of the tolerance that may be used, as for float16 in test_half_precision.py."""


def emulate_tf32(model: onnx.ModelProto) -> None:
    """Round the operands of each product to TF32, to the nearest."""
    for graph in (model.graph, *model.functions):
        nodes = []
        for index, node in enumerate(graph.node):
            if node.op_type in ("MatMul", "Gemm"):
                for operand in range(2):
                    nodes += round_operand(node, operand, f"tf32.{index}.{operand}")
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)


def round_operand(node, operand: int, name: str):
    x, node.input[operand] = node.input[operand], name
    split = numpy_helper.from_array(SPLIT)
    return [
        helper.make_node("Constant", [], [f"{name}.split"], value=split),
        helper.make_node("Mul", [x, f"{name}.split"], [f"{name}.c"]),
        helper.make_node("Sub", [f"{name}.c", x], [f"{name}.d"]),
        helper.make_node("Sub", [f"{name}.c", f"{name}.d"], [name]),
    ]


def with_tf32(session: ParitySession) -> ParitySession:
    """The session, whose graph says that it rounds to TF32, and does."""
    graph = session.graph
    runnable = onnx.ModelProto()
    runnable.CopyFrom(graph.runnable)
    emulate_tf32(runnable)
    placement = dataclasses.replace(graph.placement, tf32=True)
    return dataclasses.replace(
        session, graph=dataclasses.replace(graph, placement=placement, runnable=runnable)
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    out = tmp_path_factory.mktemp("tf32") / "out"
    export(SHIPPED, out)
    with open_session(out, SHIPPED) as opened:
        yield opened


def test_it_is_judged_as_float16_is() -> None:
    assert (EPSILON["tf32"], TOLERANCE["tf32"]) == (EPSILON["float16"], TOLERANCE["float16"])


def test_products_that_round_to_tf32_pass_as_what_they_are(session) -> None:
    rounded = with_tf32(session)
    result = sweep(rounded, CASES)
    assert (result.dtype, result.precision) == ("float32", "tf32")
    assert result.passed, result.verdict()
    assert max(case.pinned_error / case.tolerance for case in result.cases) < SHARE
    assert 0.0002 < result.flip_rate < 0.002  # 0.087 % on an H200
    assert "products round to TF32, as was asked for" in result.verdict()
    assert result.summary()["precision"] == "tf32"


def test_products_that_round_to_tf32_fail_as_float32(session) -> None:
    rounded = with_tf32(session)
    placement = dataclasses.replace(rounded.placement, tf32=False)
    silent = dataclasses.replace(rounded, graph=dataclasses.replace(rounded.graph, placement=placement))
    result = sweep(silent, CASES)
    assert not result.passed
    assert result.precision == "float32"
    assert "TF32" not in result.verdict()
    assert sum(case.unexplained for case in result.cases) > 0


def test_exact_products_stay_float32_s(session) -> None:
    result = sweep(session, CASES[:1])
    assert result.passed
    assert (result.precision, result.cases[0].tolerance < 1e-2) == ("float32", True)
