from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from reformer_export.errors import ArtifactError
from reformer_export.runtimes import onnx_structure
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from tests.runtimes.artifacts import make_model, make_spec

IMPORTS = [helper.make_opsetid("", 18), helper.make_opsetid("x", 1)]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])


def make(nodes: list[Any], functions: list[Any] | None = None, initializers: list[Any] | None = None) -> Any:
    graph = helper.make_graph(nodes, "g", [X], [Y], initializers or [])
    return helper.make_model(graph, opset_imports=IMPORTS, functions=functions or [])


def call(name: str) -> Any:
    return helper.make_node(name, ["x"], ["y"], domain="x")


def function(name: str, nodes: list[Any]) -> Any:
    return helper.make_function("x", name, ["x"], ["y"], nodes, IMPORTS)


def check(tmp_path: Path, content: Any) -> dict[str, int]:
    path = tmp_path / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return check_onnx_structure(path)


def refuse(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check(tmp_path, content)


def test_a_good_model_is_accepted(tmp_path: Path) -> None:
    """Its function's body is not counted."""
    assert check(tmp_path, make_model(make_spec())) == {"TableRead": 1}


@given(
    st.lists(st.tuples(st.sampled_from(["", "reformer", "reformer2"]), st.sampled_from("AB")), max_size=12)
)
def test_custom_nodes_are_counted(tmp_path_factory: pytest.TempPathFactory, nodes: list[Any]) -> None:
    made = [helper.make_node(op, ["x"], ["y"], domain=domain, name=op * 300) for domain, op in nodes]
    expected = [op for domain, op in nodes if domain == "reformer"]
    counts = {op: expected.count(op) for op in sorted(set(expected))}
    assert check(tmp_path_factory.mktemp("nodes"), make(made)) == counts


@pytest.mark.parametrize("where", ["initializer", "attribute", "function", "subgraph", "sparse"])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd"])
def test_external_data_is_found_wherever_it_is(tmp_path: Path, where: str, location: str) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    if where == "initializer":
        model = make([call("f")], initializers=[tensor])
    elif where == "attribute":
        model = make([constant])
    elif where == "function":
        model = make([call("f")], [function("f", [constant])])
    elif where == "subgraph":
        branch = helper.make_graph([constant], "b", [], [Y])
        model = make([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])
    else:
        model = make([call("f")])
        model.graph.sparse_initializer.add(dims=[1]).values.CopyFrom(tensor)
    refuse(tmp_path, model, "expected a path inside the artifact")


@pytest.mark.parametrize("entry", [b"\x12\x05../ev\x0a\x08location", b"\x0a\x88\x00location\x12\x05../ev"])
def test_external_data_in_an_unusual_encoding_is_found(tmp_path: Path, entry: bytes) -> None:
    """Fields in another order, or a length in more bytes than it needs: parsers take them."""
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    refuse(tmp_path, b"\x3a" + bytes([len(graph)]) + graph, "expected a path inside the artifact")


@pytest.mark.parametrize("dims", [[-1], [2, -3]])
def test_negative_dimensions(tmp_path: Path, dims: list[int]) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims)
    refuse(
        tmp_path, make([call("f")], initializers=[tensor]), r"shape \[.*-.*\], expected dimensions from 0 up"
    )


def test_absurd_shapes(tmp_path: Path) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    refuse(tmp_path, make([call("f")], initializers=[tensor]), "expected at most 1099511627776 bytes")
    many = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1] * 100_000)
    refuse(tmp_path, make([call("f")], initializers=[many]), "dimensions")


def test_data_shorter_or_longer_than_the_shape(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    check(tmp_path, make([call("f")], initializers=[tensor]))
    for dims in ([5], [3], [2**30]):
        tensor.dims[:] = dims
        refuse(tmp_path, make([call("f")], initializers=[tensor]), "with 16 bytes, expected")


def test_functions_that_explode(tmp_path: Path) -> None:
    """Each calls the next ten times: 10^12 nodes in a file of a few kilobytes."""
    functions = [function(f"f{i}", [call(f"f{i + 1}")] * 10) for i in range(12)]
    refuse(tmp_path, make([call("f0")], functions), "functions that grow to more than 200000 nodes")


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    refuse(
        tmp_path, make([call("f")], [function("f", [call("g")]), function("g", [call("f")])]), "themselves"
    )


def test_many_functions(tmp_path: Path) -> None:
    functions = [function(f"f{i}", [call(f"f{i + 1}")]) for i in range(1001)]
    refuse(tmp_path, make([call("f0")], functions), "more than 1000 functions")
    check(tmp_path, make([call("f0")], functions[:1000]))


def test_many_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, make([call("f")] * 10_000))
    monkeypatch.setattr(onnx_structure, "MAX_NODES", 9_999)
    refuse(tmp_path, make([call("f")] * 10_000), "more than 9999 nodes")


def test_nested_graphs(tmp_path: Path) -> None:
    graph = helper.make_graph([call("f")], "g", [], [Y])
    for _ in range(onnx_structure.MAX_DEPTH):
        graph = helper.make_graph([helper.make_node("Loop", ["x"], ["y"], body=graph)], "g", [], [Y])
    check(tmp_path, helper.make_model(graph))
    graph = helper.make_graph([helper.make_node("Loop", ["x"], ["y"], body=graph)], "g", [], [Y])
    refuse(tmp_path, helper.make_model(graph), "nested more than 16 deep")


def test_every_truncation_is_refused_or_survived(tmp_path: Path) -> None:
    """Every prefix of a model: refused as no whole file, unless it ends between two fields."""
    content = make_model(make_spec(vocab_size=3)).SerializeToString()
    refused = 0
    for length in range(1, len(content)):
        try:
            check(tmp_path, content[:length])
        except ArtifactError:
            refused += 1
    assert refused > 0.9 * len(content)


@pytest.mark.parametrize("content", [b"", b"\x0b", b"\xff" * 20, b"\x3a\x05"])
def test_files_that_are_no_protobuf(tmp_path: Path, content: bytes) -> None:
    refuse(tmp_path, content, "expected")


def test_training_information_is_refused(tmp_path: Path) -> None:
    model = make([call("f")])
    model.training_info.add().algorithm.CopyFrom(onnx.GraphProto())
    refuse(tmp_path, model, "training information")
