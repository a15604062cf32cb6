from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reformer_export.errors import ArtifactError
from reformer_export.runtimes.ort_session import open_session
from reformer_export.runtimes.upcast import upcast_in_place, upcast_model

BF16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT
WEIGHTS = np.array([1.5, -2.0, 3.0], np.float32)


def bfloat16_tensor(name: str) -> Any:
    return numpy_helper.from_array(WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(BF16)), name)


def make_bfloat16_model() -> Any:
    """bfloat16 in every place that can hold it: weights, a constant, casts, a branch, a function, types."""

    def branch(name: str, sign: str) -> Any:
        return helper.make_graph(
            [helper.make_node(sign, ["cast"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, BF16, None)],
            [bfloat16_tensor(f"unused_{name}")],
        )

    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=BF16),
        helper.make_node("Constant", [], ["constant"], value=bfloat16_tensor("")),
        helper.make_node(
            "If", ["choose"], ["chosen"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs")
        ),
        helper.make_node("Add", ["chosen", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "constant"], ["sum2"]),
        helper.make_node("Round", ["sum2"], ["y"], domain="reformer"),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], value=bfloat16_tensor("v")),
    ]
    nodes[-1].attribute[0].t.CopyFrom(
        numpy_helper.from_array(np.ones(1, helper.tensor_dtype_to_np_dtype(BF16)))
    )
    graph = helper.make_graph(
        nodes,
        "everywhere",
        [helper.make_tensor_value_info("x", BF16, [3]), helper.make_tensor_value_info("choose", 9, [])],
        [helper.make_tensor_value_info("y", BF16, [3]), helper.make_tensor_value_info("filled", BF16, [2])],
        [bfloat16_tensor("weights"), numpy_helper.from_array(np.array([2]), "shape")],
        value_info=[
            helper.make_tensor_value_info("sum", BF16, [3]),
            helper.make_tensor_sequence_value_info("s", BF16, [3]),
        ],
    )
    function = helper.make_function(
        "reformer",
        "Round",
        ["x"],
        ["y"],
        [
            helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
            helper.make_node("Cast", ["wide"], ["y"], to=BF16),
        ],
        [helper.make_opsetid("", 18)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("reformer", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function])


def test_no_bfloat16_is_left_anywhere() -> None:
    model = make_bfloat16_model()
    assert "BFLOAT16" in onnx.printer.to_text(model).upper()
    upcast_in_place(model)
    assert "BFLOAT16" not in onnx.printer.to_text(model).upper()
    casts = [node for node in (*model.graph.node, *model.functions[0].node) if node.op_type == "Cast"]
    assert [node.attribute[0].i for node in casts] == [FLOAT] * 3
    assert model.graph.value_info[1].type.sequence_type.elem_type.tensor_type.elem_type == FLOAT
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize("external", [False, True])
def test_the_widened_model_runs(tmp_path: Path, external: bool) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(make_bfloat16_model(), str(source), save_as_external_data=external, size_threshold=0)
    (tmp_path / "upcast").mkdir()
    session = open_session(upcast_model(source, tmp_path / "upcast"))
    x = np.array([1.0, -1.0, 0.5], np.float32)
    y, filled = session.run(None, {"x": x, "choose": np.array(True)})
    np.testing.assert_array_equal(y, -x + 2 * WEIGHTS)
    np.testing.assert_array_equal(filled, np.ones(2, np.float32))


@pytest.mark.parametrize("content", [b"", b"no protobuf"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        upcast_model(tmp_path / "model.onnx", tmp_path)
