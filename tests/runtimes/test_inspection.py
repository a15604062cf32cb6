from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.runtimes.inspection import (
    ArtifactSummary,
    CustomNodes,
    FileState,
    OnnxSummary,
    inspect_onnx,
    inspect_path,
)
from tests.runtimes.artifacts import make_bare_node_model, write_artifact


def inspect_artifact(path: Path) -> ArtifactSummary:
    found = inspect_path(path)
    assert isinstance(found, ArtifactSummary)
    return found


def test_an_artifact_in_json(tmp_path: Path) -> None:
    report = inspect_artifact(write_artifact(tmp_path / "out", dtype="bfloat16")).to_dict()
    assert list(report) == ["kind", "folder", "manifest", "files", "engines", "graph", "runtimes"]
    assert report["kind"] == "artifact"
    assert report["manifest"]["spec"]["layers"][1]["num_buckets"] == (2, 4)
    assert [file["state"] for file in report["files"]] == ["ok"]
    assert report["graph"]["custom_nodes"] == (
        {"op_type": "TableRead", "count": 1, "has_function_body": True},
    )
    assert "upcast to float32" in report["runtimes"]["ONNX Runtime, CPU"]


def test_changed_and_missing_files_are_told(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", files={"config.json": b"{}", "gone": b"x"})
    (out / "config.json").write_text('{"changed": 1}')
    (out / "gone").unlink()
    assert inspect_artifact(out).files == (
        FileState(MODEL_NAME, (out / MODEL_NAME).stat().st_size, "ok"),
        FileState("config.json", 14, "changed"),
        FileState("gone", None, "missing"),
    )


def test_without_onnx_an_artifact_s_graph_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_artifact(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = inspect_artifact(out)
    assert (found.graph, found.files[0].state) == (None, "ok")
    assert "runs the function bodies" in found.runtimes["ONNX Runtime, CPU"]
    with pytest.raises(MissingDependencyError):
        inspect_path(out / MODEL_NAME)


def test_an_onnx_file(tmp_path: Path) -> None:
    graph = inspect_path(write_artifact(tmp_path / "out", "question-answering") / MODEL_NAME)
    assert isinstance(graph, OnnxSummary)
    assert graph.inputs[0] == "input_ids int64 [batch, sequence]"
    assert graph.outputs == ("start_logits float [...]", "end_logits float [...]")
    assert graph.operators == {
        "ai.onnx": {"Gather": 1, "Split": 1, "Squeeze": 2},
        "reformer": {"TableRead": 1},
    }
    assert graph.parameters == 258 * 2
    assert (graph.custom_nodes, graph.refused_operators) == ((CustomNodes("TableRead", 1, True),), ())
    assert list(graph.to_dict()) == ["kind", "graph", "runtimes"]


def test_nodes_without_body_are_refused_and_why(tmp_path: Path) -> None:
    path = tmp_path / "bare.onnx"
    onnx.save(make_bare_node_model(), str(path))
    found = inspect_onnx(path)
    assert found.refused_operators == ("LSHBuckets",)
    expected = '"reformer:LSHBuckets is not a registered function/op". It has no function body'
    assert expected in found.runtimes["ONNX Runtime"]


def test_weights_in_few_bits_are_parameters_and_rotations_scalars_and_scales_are_none(tmp_path: Path) -> None:
    model = make_bare_node_model()
    model.graph.node[0].input.append("rotations")
    dense = helper.make_node("Linear", ["x", "low", "scales", "bias"], ["y"], domain="reformer")
    model.graph.node.append(dense)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((6, 4), np.int8), "low"))
    weights = {"rotations": (2, 2, 2, 3), "weight": (5, 4), "bias": (4,), "scalar": (), "scales": (6,)}
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int64), "shape"))
    onnx.save(model, str(tmp_path / "bare.onnx"))
    assert inspect_onnx(tmp_path / "bare.onnx").parameters == 20 + 4 + 24


def test_external_data_is_named_and_not_read(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "out") / MODEL_NAME
    target = tmp_path / "external.onnx"
    onnx.save(
        onnx.load(str(path)), str(target), save_as_external_data=True, location="weights", size_threshold=999
    )
    (tmp_path / "weights").unlink()
    graph = inspect_onnx(target)
    assert (graph.external_files, graph.parameters) == (("weights",), 258 * 258)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.onnx", b"no protobuf", "expected protobuf's wire format"),
        ("a.onnx", b"", "got an empty file"),
        ("a.onnx", b"\x08\x0a", "got no graph"),
        ("a.plan", b"x", "a file of another kind"),
        ("a.engine", b"x", "an engine outside of a folder named engines"),
        ("a.onnx", None, "got no such file"),
        ("nowhere", None, "no such file or folder"),
    ],
)
def test_other_paths_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        inspect_path(tmp_path / name)


def test_a_file_above_protobuf_s_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse
    with pytest.raises(ArtifactError, match="got 2147483648 bytes, expected at most 2147483647"):
        inspect_path(path)
