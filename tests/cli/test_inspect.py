from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.cli.main import cli
from reformer_export.errors import ArtifactError
from tests.runtimes.artifacts import make_bare_node_model, write_artifact


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["inspect", *map(str, arguments)])


def inspect_json(path: Path) -> Any:
    result = invoke(path, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def lines_of(result: Result) -> list[str]:
    """The lines, each run of spaces as one."""
    assert result.exit_code == 0, result.exception
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_an_artifact_in_words(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", logits="last", files={"config.json": b"{}"})
    lines = lines_of(invoke(out))
    assert "task text-generation (causal), returns logits of the last token" in lines
    assert "longest sequence 64 tokens" in lines
    assert f"parameters {258 * 258:,}" in lines
    assert "0 local 8 1 0" in lines
    assert "1 lsh 8 1 0 2 2x4 7" in lines
    assert "config.json 2 B ok" in lines
    assert "parity not verified; run `reformer-export verify`" in lines


def test_an_artifact_in_json(tmp_path: Path) -> None:
    report = inspect_json(write_artifact(tmp_path / "out", dtype="bfloat16"))
    assert report["kind"] == "artifact"
    assert report["manifest"]["spec"]["layers"][1]["num_buckets"] == [2, 4]
    assert [file["state"] for file in report["files"]] == ["ok"]
    assert report["graph"]["custom_nodes"] == [
        {"op_type": "TableRead", "count": 1, "has_function_body": True}
    ]
    assert "upcast to float32" in report["runtimes"]["ONNX Runtime, CPU"]


def test_source_and_parity_are_told_in_short(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["source"] = {"name": "tiny", "files": {"a": "0"}, "ignored_weights": ["lm_head.bias"]}
    manifest["parity"] = {"passed": True, "max_free_error": 0.00012345, "cases": [{}]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    lines = lines_of(invoke(out))
    assert "source name tiny" in lines
    assert "weights left out lm_head.bias" in lines
    assert "parity passed True, max_free_error 0.000123" in lines


def test_changed_and_missing_files_are_told(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", files={"config.json": b"{}", "gone": b"x"})
    (out / "config.json").write_text('{"changed": 1}')
    (out / "gone").unlink()
    states = {file["name"]: file["state"] for file in inspect_json(out)["files"]}
    assert states == {MODEL_NAME: "ok", "config.json": "changed", "gone": "missing"}


def test_an_onnx_file(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "out", "question-answering") / MODEL_NAME
    report = inspect_json(path)
    graph = report["graph"]
    assert report["kind"] == "onnx"
    assert graph["inputs"][0] == "input_ids int64 [batch, sequence]"
    assert graph["outputs"] == ["start_logits float [...]", "end_logits float [...]"]
    assert graph["operators"] == {
        "ai.onnx": {"Gather": 1, "Split": 1, "Squeeze": 2},
        "reformer": {"TableRead": 1},
    }
    assert graph["parameters"] == 258 * 2
    lines = lines_of(invoke(path))
    assert "ai.onnx Squeeze 2" in lines
    assert "TableRead 1 in the file" in lines


def test_nodes_without_body_are_refused_and_why(tmp_path: Path) -> None:
    path = tmp_path / "bare.onnx"
    onnx.save(make_bare_node_model(), str(path))
    expected = '"reformer:LSHBuckets is not a registered function/op". It has no function body'
    assert expected in inspect_json(path)["runtimes"]["ONNX Runtime"]
    assert expected in invoke(path).stdout


def test_rotations_and_scalars_are_no_parameters(tmp_path: Path) -> None:
    model = make_bare_node_model()
    model.graph.node[0].input.append("rotations")
    weights = {"rotations": (2, 2, 2, 3), "weight": (5, 4), "bias": (4,), "scalar": ()}
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int64), "shape"))
    onnx.save(model, str(tmp_path / "bare.onnx"))
    assert inspect_json(tmp_path / "bare.onnx")["graph"]["parameters"] == 24


def test_external_data_is_named_and_not_read(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "out") / MODEL_NAME
    target = tmp_path / "external.onnx"
    onnx.save(
        onnx.load(str(path)), str(target), save_as_external_data=True, location="weights", size_threshold=999
    )
    (tmp_path / "weights").unlink()
    graph = inspect_json(target)["graph"]
    assert (graph["external_files"], graph["parameters"]) == (["weights"], 258 * 258)


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
    result = invoke(tmp_path / name)
    assert isinstance(result.exception, ArtifactError)
    assert message in str(result.exception)


def test_a_file_above_protobuf_s_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse
    result = invoke(path)
    assert "got 2147483648 bytes, expected at most 2147483647" in str(result.exception)
