"""As test_bisect.py, for reformer-pytorch's models: in a wrapper and bare, whatever the layer has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from reformer_export.parity.cases import Case
from tests.export.test_export import NATIVE_MODES
from tests.parity.planted import (
    BLOCK,
    LUCIDRAINS,
    Plant,
    negate_update,
    node_of,
    own_tensor,
    scale,
    set_attribute,
    shift_words,
)
from tests.parity.test_bisect import search

CASES = {
    "wrapped": [Case(38, 2, masked=True), Case(64, 1, masked=False)],
    "bare": [Case(56, 2, masked=True)],
    "gated": [Case(33, 2, masked=True), Case(5, 2, masked=True)],
    "memories": [Case(38, 2, masked=True)],
    "alone": [Case(38, 2, masked=True)],
    "layers": [Case(38, 2, masked=True)],
    "full": [Case(38, 2, masked=True)],
}
"""Hashed, with masked tokens, and padded in a wrapper; without; dense, where the graph pads and eager
does not."""

FIRST, SECOND = (f"{BLOCK}{layer}.attention.self_attention" for layer in (0, 1))


@pytest.mark.parametrize(
    ("name", "native"),
    [*((name, NATIVE_MODES[-1]) for name in LUCIDRAINS), *(("wrapped", mode) for mode in NATIVE_MODES[:-1])],
)
def test_a_sound_artifact_has_no_node_that_differs(artifacts, tmp_path, name, native) -> None:
    for case in CASES[name]:
        result = search(artifacts(name), None, tmp_path, native, case)
        assert result.verdict() == f"No node differs ({case})"
        assert (result.named, result.subgraph, result.first_beyond) == (None, None, None)
        assert 0 < result.largest.share < 0.25


def other_rotations(layer: int) -> Plant:
    """The layer's rounds in another order."""

    def plant(model: onnx.ModelProto) -> None:
        name = f"{BLOCK}{layer}.attention.self_attention.rotations"
        (cut,) = (n for n in model.graph.node if n.op_type == "Gather" and name in n.input)
        tensor = own_tensor(model, "LSHBuckets", f"{BLOCK}{layer}.attention.self_attention", 1, cut)
        values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return plant


def swap_masked(module: str, attends: str) -> Plant:
    """What masked tokens get, to the others, and the other way round."""

    def plant(model: onnx.ModelProto) -> None:
        output = node_of(model, attends, module).output[0]
        (node,) = (n for n in model.graph.node if n.op_type == "Where" and output in n.input)
        node.input[1], node.input[2] = node.input[2], node.input[1]

    return plant


def layer(number: int, behind: str) -> str:
    return f"{BLOCK}{number}.{behind}"


def with_attribute(operator: str, module: str, name: str, value: float) -> tuple[Plant, str, str]:
    """The plant, and what it is to be named."""
    return set_attribute(operator, module, name, value), operator, module


def scaled(operator: str, module: str, *where: float) -> tuple[Plant, str, str]:
    """The plant, and what it is to be named."""
    return scale(operator, module, *where), operator, module  # type: ignore[arg-type]


OPERATORS = {
    "other rotations": ("wrapped", (other_rotations(1), "LSHBuckets", SECOND)),
    "other rotations of tied layers": ("bare", (other_rotations(0), "LSHBuckets", FIRST)),
    "a local head": ("wrapped", with_attribute("LocalAttention", SECOND, "num_chunks_before", 0)),
}
OTHERS = {
    "a window": ("wrapped", with_attribute("LSHAttention", FIRST, "num_chunks_before", 0)),
    "the other family's logit": ("gated", with_attribute("LSHAttention", SECOND, "self_logit", -1e5)),
    "full attention": ("full", with_attribute("LocalAttention", FIRST, "is_causal", 0)),
    "a local head's ends": ("bare", with_attribute("LocalAttention", FIRST, "wraps", 1)),
    "dense too long": ("wrapped", with_attribute("LSHAttention", SECOND, "dense_threshold", 64)),
    "a memory's query": ("memories", scaled("Gemm", layer(0, "feed_forward.memory.query"))),
    "an attention alone": ("alone", scaled("MatMul", f"{FIRST}.query_key")),
    "a layer's residual": ("layers", scaled("ResidualNorm", layer(1, "attention.layer_norm"), 2, 1.001)),
    "words in disorder": ("bare", (shift_words, "Gather", "embeddings.word_embeddings")),
    "angles": ("wrapped", (scale("Mul", "rotary_positions"), "Cos", "rotary_positions")),
    "a shared projection": ("wrapped", scaled("MatMul", f"{SECOND}.query_key")),
    "one of tied projections": ("bare", scaled("MatMul", f"{SECOND}.query_key")),
    "the only value head": ("gated", scaled("MatMul", f"{FIRST}.value")),
    "masked tokens": ("wrapped", (swap_masked(SECOND, "LSHAttention"), "Where", SECOND)),
    "masked local tokens": ("wrapped", (swap_masked(FIRST, "LocalAttention"), "Where", FIRST)),
    "a bias": ("wrapped", scaled("Add", layer(1, "attention.output.dense"))),
    "a gate": ("gated", scaled("Mul", layer(1, "attention"))),
    "a gate of a feed-forward": ("gated", scaled("Mul", layer(0, "feed_forward"))),
    "a norm": ("wrapped", scaled("ResidualNorm", layer(1, "attention.layer_norm"), 2, 1.001)),
    "a length": ("bare", scaled("Mul", layer(1, "feed_forward.layer_norm"))),
    "a residual": (
        "wrapped",
        (negate_update(layer(0, "feed_forward.layer_norm")), "ResidualNorm", layer(0, "attention")),
    ),
    "a gated perceptron": ("wrapped", scaled("Gemm", layer(1, "feed_forward.inner"))),
    "the mean of the streams": ("full", scaled("Mul", "encoder")),
    "the tied head": ("bare", scaled("MatMul", "lm_head.decoder")),
}


@pytest.mark.parametrize(
    ("name", "planted", "native"),
    [
        pytest.param(*planted, native, id=f"{what}, native {native}")
        for table, natives in ((OPERATORS, NATIVE_MODES), (OTHERS, NATIVE_MODES[-1:]))
        for what, planted in table.items()
        for native in natives
    ],
)
def test_a_planted_defect_is_named(artifacts, tmp_path, name, planted, native) -> None:
    plant, operator, module = planted
    result = search(artifacts(name), plant, tmp_path, native, CASES[name][0])
    assert result.named is not None, result.verdict()
    point = result.named.wrong.point
    assert (result.named.operator, point.module) == (operator, module)
    assert point.layer == (int(module.split(".")[2]) if module.startswith(BLOCK) else None)
    assert result.first_beyond is not None
    assert result.first_beyond.point is point
    assert f"{result.named.node} ({operator})" in result.verdict()


def test_other_keys_of_a_memory_are_unexplained_flips(artifacts, tmp_path) -> None:
    memory = layer(0, "feed_forward.memory")

    def plant(model: onnx.ModelProto) -> None:
        tensor = own_tensor(model, "MatMul", f"{memory}.keys", 1)
        values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    result = search(artifacts("memories"), plant, tmp_path, NATIVE_MODES[-1], CASES["memories"][0])
    assert result.named is not None, result.verdict()
    agreement = result.named.wrong.agreement
    assert agreement is not None
    assert result.named.wrong.point.module == f"{memory}.choice"
    assert agreement.misplaced == agreement.unexplained > agreement.hashed / 2
    assert f"{agreement.unexplained} unexplained flips in {agreement.hashed} memories" in result.verdict()
