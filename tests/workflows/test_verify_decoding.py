"""An artifact with decode.onnx: compared when it is exported, by `verify`, and told by `inspect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import reformer_export
from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import ParityError
from reformer_export.parity import decoding_operators
from reformer_export.runtimes.inspection import ArtifactSummary, OnnxSummary, describe_problem, inspect_path
from tests.cli.program import run_program, snapshot
from tests.edits import vouch_for

CASES = {"lengths": (1, 20), "batch_sizes": (2,)}


@pytest.fixture(scope="module")
def decoder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decoder") / "out"
    reformer_export.export_checkpoint(checkpoint, out, decode=True)
    return out


@pytest.fixture
def copy(decoder: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    shutil.copytree(decoder, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def wrong(copy: Path) -> Path:
    """With another window in the LSH layer's step."""
    model = onnx.load(str(copy / "decode.onnx"), load_external_data=False)
    (node,) = (node for node in model.graph.node if node.op_type == "LSHAttentionStep")
    next(x for x in node.attribute if x.name == "num_chunks_before").i = 0
    onnx.save(model, str(copy / "decode.onnx"))
    vouch_for(copy / "decode.onnx")
    return copy


def test_the_manifest_says_what_was_compared(decoder: Path) -> None:
    parity = read_manifest(decoder).parity
    assert parity is not None
    decoding = parity["decoding"]
    assert decoding["passed"]
    for check in ("prompt", "operator", "batch", "around"):
        assert decoding[check]["compared"] > 0
        assert decoding[check]["failed"] == 0
        assert decoding[check]["worst_error"] <= decoding[check]["tolerance"]


def test_verify_has_a_section_of_it(decoder: Path) -> None:
    report = reformer_export.verify_artifact(decoder, **CASES)
    assert report.passed
    sweep, decoding, stored = report.verdict().splitlines()
    assert stored.startswith("Passed: ")
    assert sweep.startswith("Passed: 3 cases; ")
    assert decoding.startswith("Passed: decode.onnx, 2 prompts, ")
    (runtime,) = report.runtimes
    assert runtime.decoding is not None
    assert {finding.length for finding in runtime.decoding.of("prompt")} == {1, 20}
    assert runtime.drift is not None
    assert max(point.length for point in runtime.drift.points) == 64
    values = report.to_dict()["decoding"]
    assert values["drift"]["points"]
    assert values["findings"]


def test_verify_without_it_has_none(exported: Path) -> None:
    report = reformer_export.verify_artifact(exported, **CASES)
    assert report.runtimes[0].decoding is report.runtimes[0].drift is None
    assert "decoding" not in report.to_dict()


def test_a_wrong_one_fails_in_one_line(wrong: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ("verify", wrong, "--checkpoint", checkpoint, "--lengths", "1,20", "--batch-sizes", "2")
    outcome = run_program(*arguments, "--json", tmp_path / "found.json", "--report", page)
    assert outcome.status == 1
    (line,) = (each for each in outcome.messages if each.startswith("Error: "))
    assert line.startswith("Error: parity with eager: FAILED: ")
    assert (
        "comparisons of decode.onnx; operators of steps, by whole ones: LSHAttentionStep, layer 1, " in line
    )
    assert ": error " in line
    assert ", tolerance " in line
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["passed"], found["decoding"]["passed"]) == (True, False)
    assert "No: decode.onnx differs" in page.read_text(encoding="utf-8")


def test_a_sound_one_is_told_on_the_terminal(decoder: Path, checkpoint: Path) -> None:
    arguments = ("verify", decoder, "--checkpoint", checkpoint, "--lengths", "1,20", "--batch-sizes", "2")
    outcome = run_program(*arguments)
    assert outcome.status == 0, outcome
    assert "prompts, by model.onnx" in outcome.stdout
    assert "Passed: decode.onnx, 2 prompts" in outcome.stdout
    assert "Drift from the whole pass, which is not judged, at " in outcome.stdout


def test_an_export_that_differs_is_not_written(
    checkpoint: Path, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_operators, "TOLERANCE_OF_ELEMENT", 1e-12)
    monkeypatch.setattr(decoding_operators, "NOISE_UNITS", 0)
    monkeypatch.setitem(decoding_operators.EPSILON, "float32", 0)
    before = snapshot(decoder)
    with pytest.raises(ParityError, match=r"FAILED: .* comparisons of decode.onnx; .*nothing was written"):
        reformer_export.export_checkpoint(checkpoint, decoder, decode=True, overwrite=True)
    assert snapshot(decoder) == before
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_of_it(decoder: Path, copy: Path) -> None:
    found = inspect_path(decoder)
    assert isinstance(found, ArtifactSummary)
    assert describe_problem(found) == ""
    assert found.decode is not None
    nodes = {node.op_type: node.has_function_body for node in found.decode.custom_nodes}
    assert nodes == dict.fromkeys(
        ("FinalNorm", "LSHAttentionStep", "LSHBuckets", "LocalAttentionStep", "ResidualNorm"), True
    )
    assert found.to_dict()["decode_graph"]["path"].endswith("decode.onnx")
    alone = inspect_path(decoder / "decode.onnx")
    assert isinstance(alone, OnnxSummary)
    assert alone.external_files == ("model.onnx.data",)
    assert alone.inputs[1:3] == ("lengths int32 [batch]", "new_lengths int32 [batch]")
    with (copy / "decode.onnx").open("ab") as file:
        file.write(b"x")
    assert describe_problem(inspect_path(copy)).startswith("got decode.onnx changed, ")
    (copy / "decode.onnx").unlink()
    missing = inspect_path(copy)
    assert isinstance(missing, ArtifactSummary)
    assert missing.decode is None
    assert missing.runtimes["`run` here"] == "refuses the artifact: decode.onnx is missing"
    assert describe_problem(missing).startswith("got decode.onnx missing, ")
