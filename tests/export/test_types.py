"""The exported graph says every type itself: a strongly typed runtime converts nothing on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto

from reformer_export.contract import DOMAIN
from reformer_export.export import ExportOptions
from reformer_export.spec import DTYPES, DType
from tests.export.test_export import export
from tests.hf_models import config_t, save_model
from tests.modeling.test_reformer import HEADS

pytestmark = pytest.mark.usefixtures("translated_as_captured")

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
FLOATING = {*ELEMENT_TYPES.values(), TensorProto.DOUBLE}
LAYERS = 2
ONE_SLICE = "feature-extraction"
"""The task whose feed-forward is whole; that of the others is cut into two slices, whose sum is float32."""

EVERY_DTYPE = (ONE_SLICE, "text-generation")
"""The tasks that are exported in every dtype; the others have the same layers."""

CASTS = {"float32": 0, "whole": 3, "sliced": 3 + 2 * LAYERS + LAYERS}
"""In half precision: words and positions to float32, and the first norm's result to T; each slice's result to
float32, and the norms of their sums to T. Other norms add by themselves what is T."""

NORMS = ("ResidualNorm", "FinalNorm")

Types = dict[str, int]
"""Element type by the name of a value."""


@pytest.fixture(
    scope="module",
    params=[(task, dtype) for task in HEADS for dtype in DTYPES if dtype == "float16" or task in EVERY_DTYPE],
    ids=str,
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, Types, DType]:
    """A head in a dtype: the model, the type that strict inference gives every value, the dtype."""
    task, dtype = request.param
    root: Path = tmp_path_factory.mktemp("typed")
    config = config_t(is_decoder=task == "text-generation", num_labels=2 if "question" in task else 5)
    folder = save_model(root, config, HEADS[task])
    logits = {"logits": "last"} if task == "text-generation" else {}
    slices = 1 if task == ONE_SLICE else 2
    model = export(folder, root / "out", ExportOptions(dtype=dtype), feed_forward_slices=slices, **logits)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = inferred.graph
    types = {
        v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)
    } | {tensor.name: tensor.data_type for tensor in graph.initializer}
    return model, types, dtype


def types_of(names: Sequence[str], types: Types) -> list[int]:
    return [types[name] for name in names if name]


def cast_target(node: NodeProto) -> int:
    (to,) = (attribute.i for attribute in node.attribute if attribute.name == "to")
    return int(to)


def test_every_value_has_a_type_and_none_is_float64(exported) -> None:
    model, types, _ = exported
    for node in model.graph.node:
        bad = {TensorProto.UNDEFINED, TensorProto.DOUBLE}
        assert not bad.intersection(types_of([*node.input, *node.output], types)), node.name


def test_no_node_mixes_types(exported) -> None:
    model, types, _ = exported
    for node in model.graph.node:
        if node.domain == DOMAIN or node.op_type == "Cast":
            continue
        floats = {t for t in types_of([*node.input, *node.output], types) if t in FLOATING}
        assert len(floats) <= 1, f"{node.name} mixes {floats}"


def test_norms_and_streams_are_float32(exported) -> None:
    model, types, dtype = exported
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    for node in norms:
        assert types_of([*node.input, *node.output], types) == [TensorProto.FLOAT] * 4
    # What the first norm reads is the embeddings' sum: never rounded to T.
    producers = {name: node for node in model.graph.node for name in node.output}
    read = [producers[node.input[0]] for node in norms]
    assert [node.op_type for node in read] == ["Add"]
    for node in read:
        assert set(types_of([*node.input, *node.output], types)) == {TensorProto.FLOAT}
    consumers = [node for node in model.graph.node if node.input and node.input[0] in norms[0].output]
    if dtype != "float32":
        assert [cast_target(node) for node in consumers] == [ELEMENT_TYPES[dtype]]


def test_streams_of_fused_norms_are_float32_and_what_is_added_t(exported) -> None:
    model, types, dtype = exported
    t, float32 = ELEMENT_TYPES[dtype], TensorProto.FLOAT
    norms = [node for node in model.graph.node if node.op_type in NORMS]
    sliced = any("outer.1" in name for name in types)
    expected = [t, float32 if sliced else t] * LAYERS
    assert [node.op_type for node in norms] == [*(["ResidualNorm"] * (len(expected) - 1)), "FinalNorm"]
    for node, element in zip(norms, expected, strict=True):
        *streams, update, scale, bias = types_of(node.input, types)
        assert (set(streams), update, scale, bias) == ({float32}, element, float32, float32)
        *sums, normed = types_of(node.output, types)
        assert (sums, normed) == ([float32] * len(sums), element)


def test_operators_take_t_and_float32_rotations(exported) -> None:
    model, types, dtype = exported
    t, int32 = ELEMENT_TYPES[dtype], TensorProto.INT32
    expected = {
        "LSHBuckets": ([t, TensorProto.FLOAT, int32], [int32]),
        "LSHAttention": ([t, t, int32, int32], [t]),
        "LocalAttention": ([t, t, t, int32], [t]),
    }
    nodes = [n for n in model.graph.node if n.domain == DOMAIN and n.op_type not in NORMS]
    assert {node.op_type for node in nodes} == set(expected)
    for node in nodes:
        assert (types_of(node.input, types), types_of(node.output, types)) == expected[node.op_type]
    rotations = {node.input[1] for node in nodes if node.op_type == "LSHBuckets"}
    assert rotations <= {tensor.name for tensor in model.graph.initializer}


def test_weights_and_outputs_are_t_but_norms_and_rotations(exported) -> None:
    model, types, dtype = exported
    kept = {name for node in model.graph.node if node.op_type == "LayerNormalization" for name in node.input}
    kept |= {name for node in model.graph.node if node.op_type in NORMS for name in node.input[-2:]}
    kept |= {node.input[1] for node in model.graph.node if node.op_type == "LSHBuckets"}
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATING:
            wanted = TensorProto.FLOAT if tensor.name in kept else ELEMENT_TYPES[dtype]
            assert tensor.data_type == wanted, tensor.name
    assert {types[value.name] for value in model.graph.output} == {ELEMENT_TYPES[dtype]}


def test_casts_are_those_of_the_design(exported) -> None:
    """One more is a conversion that nobody decided on; one less a place that lost its float32."""
    model, types, dtype = exported
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    floating = [node for node in casts if types[node.input[0]] in FLOATING]
    sliced = any("outer.1" in name for name in types)
    assert len(floating) == CASTS["float32" if dtype == "float32" else "sliced" if sliced else "whole"]
    others = {(types[node.input[0]], cast_target(node)) for node in casts if node not in floating}
    assert others == {(TensorProto.INT64, TensorProto.INT32)}  # the mask; positions stay integers


def test_softmax_and_hash_are_inside_the_operators(exported) -> None:
    model, _, _ = exported
    assert {node.op_type for node in model.graph.node} & {"Softmax", "Exp", "ArgMax", "TopK"} == set()


@pytest.mark.parametrize("operator", ["LSHBuckets", "LSHAttention", "LocalAttention", *NORMS])
def test_bodies_compute_in_float32(exported, operator: str) -> None:
    """What enters a body in T is cut and cast to float32, and nothing else reads it."""
    model, _, _ = exported
    (function,) = (f for f in model.functions if f.name == operator)
    in_t = set(function.input) & {"query_key", "query", "key", "value", "update"}
    assert in_t
    casts = 0
    for node in all_nodes(function.node):
        read = [index for index, name in enumerate(node.input) if name in in_t]
        if not read or node.op_type == "Shape":
            continue
        if node.op_type == "Cast":
            assert cast_target(node) == TensorProto.FLOAT
            casts += 1
        elif node.op_type == "Slice":
            in_t.update(node.output)
        else:
            assert (node.op_type, read) == ("CastLike", [1]), f"{node.op_type} reads {node.input} in T"
    assert casts == len(set(function.input) & in_t)


def all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """The nodes of a body in order, those of its loops after the loop."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_nodes(attribute.g.node)
