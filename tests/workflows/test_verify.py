from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

import reformer_export
from reformer_export.artifact import manifest as manifest_module
from reformer_export.artifact.files import sha256_of_file
from reformer_export.errors import InputError, OutputError
from reformer_export.reference import eager as eager_module
from reformer_export.report.verify_page import page_from_verify
from reformer_export.workflows.verify import VerifyRequest, verify_artifact
from tests.edits import vouch_for

CASES = {"lengths": (1, 20), "batch_sizes": (2,)}


def test_a_sound_artifact_passes(exported: Path) -> None:
    report = reformer_export.verify_artifact(exported, **CASES)
    assert report.passed
    assert report.verdict().startswith("Passed: 3 cases; ")
    (runtime,) = report.runtimes
    assert [case.case.length for case in runtime.sweep.cases] == [1, 20, 20]
    values = report.to_dict()
    assert values["artifact"] == str(exported)
    assert values["num_cases"] == 3
    assert not {"details", "bisect", "dial", "manifest"} & set(values)


def test_a_search_and_details_come_with_it(exported: Path, tmp_path: Path) -> None:
    said: list[str] = []
    request = VerifyRequest(**CASES, details=True, bisect=tmp_path / "node")
    report = verify_artifact(exported, request, say=said.append)
    assert report.details is not None
    assert report.bisect is not None
    assert report.bisect.replay is None  # nothing is wrong
    assert not (tmp_path / "node").exists()
    assert said == ["Looking inside the model for the report ...", "Comparing node by node ..."]
    values = report.to_dict()
    assert values["bisect"]["node"] is None
    assert values["manifest"]["dtype"] == "float32"
    assert {"layers", "margins", "pattern"} <= set(values["details"])


def test_a_wrong_node_is_named(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    model = onnx.load(str(out / "model.onnx"))
    (head,) = (x for x in model.graph.initializer if x.name == "lm_head.decoder.bias")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + 1, head.name))
    onnx.save(model, str(out / "model.onnx"))
    vouch_for(out / "model.onnx")
    report = verify_artifact(out, **CASES, bisect=tmp_path / "node", checkpoint=str(checkpoint))
    assert not report.passed
    assert report.names_node
    assert report.bisect is not None
    assert report.bisect.replay == f"reformer-export replay {tmp_path / 'node'}"
    assert "lm_head" in report.bisect.lines()[0]


def test_everything_is_opened_once(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager is built once and every file of the artifact is hashed once, whatever is looked at."""
    hashed: Counter[str] = Counter()
    built: list[object] = []

    def count(path: Path) -> str:
        hashed[path.name] += 1
        return sha256_of_file(path)

    class Counted(eager_module.EagerReformer):
        def __init__(self, *arguments: object, **options: object) -> None:
            built.append(self)
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest_module, "sha256_of_file", count)
    monkeypatch.setattr(eager_module, "EagerReformer", Counted)
    verify_artifact(exported, **CASES, details=True, bisect=tmp_path / "node")
    assert len(built) == 1
    assert hashed == dict.fromkeys(manifest_module.read_manifest(exported).files, 1)


def test_what_does_not_fit(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="options: got length, expected VerifyRequest, or fields"):
        verify_artifact(exported, length=3)
    with pytest.raises(InputError, match="runtimes: got 'onnx', expected onnxruntime or tensorrt"):
        verify_artifact(exported, runtimes=("onnx",))
    with pytest.raises(InputError, match="cuda_graphs: got it with no TensorRT among the runtimes"):
        verify_artifact(exported, cuda_graphs=True)
    with pytest.raises(InputError, match="bisect: got tensorrt, whose nodes cannot be run one by one"):
        verify_artifact(exported, runtimes=("tensorrt",), bisect=tmp_path / "node")
    with pytest.raises(InputError, match="data_length: got 5 without a text"):
        verify_artifact(exported, data_length=5)
    with pytest.raises(OutputError, match="bisect: got "):
        verify_artifact(exported, bisect=exported)
    with pytest.raises(InputError, match=r"num_hashes: got 3 for an artifact with 2 hashes built in"):
        verify_artifact(exported, num_hashes=(3,))
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(InputError, match=r"data: got .*empty.txt, which is empty"):
        verify_artifact(exported, data=empty)


def test_tf32_is_onnx_runtime_s_on_cuda() -> None:
    """Refused when the request is made, before any work."""
    with pytest.raises(InputError, match=r"tf32: got it on the CPU"):
        VerifyRequest(tf32=True, provider="cpu")
    with pytest.raises(InputError, match=r"tf32: got it with tensorrt"):
        VerifyRequest(tf32=True, provider="cuda", runtimes=("tensorrt",))
    request = VerifyRequest(tf32=True, provider="cuda", runtimes=("onnxruntime", "tensorrt"))
    assert [request.options_of(runtime).tf32 for runtime in request.runtimes] == [True, False]


def test_a_bias_that_the_installed_eager_leaves_out_is_added_and_spoken_of(
    exported: Path, checkpoint: Path, tmp_path: Path, head_without_bias: None
) -> None:
    """As with transformers 5.0 to 5.23, on a head with a trained bias."""
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.decoder.bias"] = torch.linspace(-2, 3, 50)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said: list[str] = []
    reformer_export.export_checkpoint(folder, out, say=said.append)
    report = verify_artifact(out, **CASES, say=said.append)
    assert report.passed
    (note,) = report.to_dict()["notes"]
    assert "leaves the trained bias of the language-model head out (its logits are off by up to 3.0e" in note
    assert said.count(f"Note: {note}.") == 2  # once by each
    errors = next(section for section in page_from_verify(report).sections if section.name == "errors")
    assert f"{note}." in errors.paragraphs
