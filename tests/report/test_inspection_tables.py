from __future__ import annotations

import dataclasses
from pathlib import Path

from reformer_export.artifact.decoding import DecodeRecord
from reformer_export.artifact.engine_state import EngineState, UnusableEngine
from reformer_export.artifact.manifest import MODEL_NAME, RuntimeNumHashes
from reformer_export.report.inspection_tables import inspection_tables
from reformer_export.runtimes.inspection import ArtifactSummary, CustomNodes, FileState, inspect_path
from reformer_export.spec import AxialPositionsSpec
from tests.artifact.test_engine_record import RECORD
from tests.runtimes.artifacts import write_artifact

Rows = tuple[tuple[str, ...], ...]


def tables_of(path: Path, **changes: object) -> dict[str, Rows]:
    """The rows by caption, of the artifact with other fields."""
    found = inspect_path(path)
    if isinstance(found, ArtifactSummary):
        found = dataclasses.replace(found, **changes)
    return {table.caption: table.rows for table in inspection_tables(str(path), found)}


def test_an_artifact(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", logits="last", files={"config.json": b"{}"})
    tables = tables_of(out)
    facts = dict(tables[f"Artifact {out}"])
    assert facts["task"] == "text-generation (causal), returns logits of the last token"
    assert facts["longest sequence"] == "64 tokens"
    assert facts["parameters"] == f"{258 * 258:,}"
    assert facts["positions"] == "learned, 64"
    assert facts["parity"] == "not verified; run `reformer-export verify`"
    assert tables["Layers"] == (
        ("0", "local", "8", "1", "0", "-", "-", "-"),
        ("1", "lsh", "8", "1", "0", "2", "2x4", "7"),
    )
    assert ("config.json", "2 B", "ok") in tables["Files, compared with their SHA-256"]
    assert "Engines" not in tables


def test_an_artifact_with_more_to_tell(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", "text-classification")
    found = inspect_path(out)
    assert isinstance(found, ArtifactSummary)
    spec = dataclasses.replace(found.manifest.spec, positions=AxialPositionsSpec((8, 16), (2, 2)))
    manifest = dataclasses.replace(
        found.manifest,
        spec=spec,
        source={"name": "tiny", "files": {"a": "0"}, "ignored_weights": ["lm_head.bias"]},
        parity={"passed": True, "max_free_error": 0.00012345, "cases": [{}]},
        runtime_num_hashes=RuntimeNumHashes(4),
    )
    tables = tables_of(out, manifest=manifest, graph=None, files=(FileState("gone", None, "missing"),))
    facts = dict(tables[f"Artifact {out}"])
    assert facts["task"] == "text-classification (bidirectional, 3 labels), returns logits"
    assert facts["source"] == "name tiny"
    assert facts["weights left out"] == "lm_head.bias"
    assert facts["positions"] == "axial, 8x16 = 128"
    assert facts["parameters"] == "unknown (needs the package onnx)"
    assert facts["hashes of a run"].startswith("1 to 4 ")
    assert facts["parity"] == "passed True, max_free_error 0.000123"
    assert tables["Files, compared with their SHA-256"] == (("gone", "-", "missing"),)


def test_engines(tmp_path: Path) -> None:
    engines = (EngineState(RECORD, "ok"), UnusableEngine("stray", "unusable", "no record"))
    assert tables_of(write_artifact(tmp_path / "out"), engines=engines)["Engines"] == (
        (
            "ada",
            "tensorrt-rtx 1.7.1.116",
            "8.0, 12.0",
            "model.onnx",
            "16,384 tokens",
            "1,234 B",
            "the plugin library",
            "ok",
        ),
        ("stray", "-", "-", "-", "-", "-", "-", "unusable: no record"),
    )
    (table,) = inspection_tables("ada.engine", EngineState(RECORD, "changed"))
    assert (table.caption, table.rows[-1]) == ("Engine ada.engine", ("state", "changed"))


def test_an_onnx_file(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "out", "question-answering") / MODEL_NAME
    tables = tables_of(path)
    facts = tables[f"ONNX file {path}"]
    assert ("input", "input_ids int64 [batch, sequence]") in facts
    assert ("external data", "none") in facts
    assert ("ai.onnx", "Squeeze", "2") in tables["Operators"]
    assert tables["Nodes of the domain reformer"] == (("TableRead", "1", "yes"),)
    assert [name for name, _ in tables["Runtimes"]] == ["ONNX Runtime, CPU", "ONNX Runtime, CUDA"]


def test_decode_onnx(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    found = inspect_path(out)
    assert isinstance(found, ArtifactSummary)
    assert "decode.onnx" not in {table.caption for table in inspection_tables(str(out), found)}
    record = DecodeRecord("decode.onnx", 4680, 589824)
    manifest = dataclasses.replace(found.manifest, decode=record)
    facts = dict(tables_of(out, manifest=manifest)["decode.onnx"])
    assert facts == {
        "for": "a prompt, then a token a call; each row of a batch is a sequence of its own",
        "weights": "those of model.onnx",
        "cache": "4,680 B a token and 589,824 B a sequence",
        "cache of the longest sequence": f"{4680 * 64 + 589824:,} B, 64 tokens",
        "parity": "not compared at export",
    }
    manifest = dataclasses.replace(
        manifest, parity={"passed": True, "decoding": {"passed": True, "flips": 0}}
    )
    tables = tables_of(out, manifest=manifest, decode=found.graph)
    assert dict(tables["decode.onnx"])["operators"] == "1 TableRead"
    assert dict(tables["decode.onnx"])["parity"] == "passed True, flips 0"
    assert "runs in ONNX Runtime: with the operator library" in dict(tables["Runtimes"])["decode.onnx"]
    bare = dataclasses.replace(found.graph, custom_nodes=(CustomNodes("LSHAttentionStep", 1, False),))
    told = dict(tables_of(out, manifest=manifest, decode=bare)["Runtimes"])["decode.onnx"]
    assert told == "runs with an operator library only: LSHAttentionStep have no function body in the file"
