"""Weights of few bits through the jobs: what is asked for, recorded, told and refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import pytest
import torch
import transformers

from reformer_export import export_checkpoint, verify_artifact
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import read_manifest, write_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.errors import ArtifactError, InputError, ParityError
from reformer_export.export import exporter
from reformer_export.low_precision import PROJECTIONS, LowPrecision, projection_of
from reformer_export.modeling import build_model
from reformer_export.parity.cost import CostResult
from reformer_export.report.verify_page import page_from_verify
from reformer_export.serving.page import _describe_parity
from reformer_export.workflows import verify
from reformer_export.workflows.export import ExportRequest
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model over bytes."""
    config = config_t(is_decoder=True, vocab_size=258)
    return save_model(tmp_path_factory.mktemp("bytes"), config, transformers.ReformerModelWithLMHead)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "held-out.txt"
    path.write_text("In the beginning was the word. " * 4, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def int8(of_bytes: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "out"
    export_checkpoint(of_bytes, out, weights="int8", keep=["key"], data=text, max_loss=1.0)
    return out


def test_what_was_asked_for_and_what_it_costs_are_recorded(int8: Path) -> None:
    values = json.loads((int8 / "manifest.json").read_text())
    assert (values["weights"], values["kept"]) == ("int8", ["key"])
    manifest = read_manifest(int8)
    assert manifest.low_precision == LowPrecision("int8", ("key",))
    assert manifest.operators["Linear"] == 1
    assert manifest.parity is not None
    (cost,) = manifest.parity["cost"]["artifacts"]
    assert abs(cost["loss"]) < 0.1
    assert cost["loss"] == cost["bits_per_character"] - manifest.parity["cost"]["bits_per_character"]
    # The same bytes whatever the folder is called and however busy the machine is.
    assert not {"name", "tokens_per_second"} & set(cost)
    assert manifest.loss == f"{cost['loss']:.4f} bits per character on held-out.txt"


def test_who_looks_at_it_is_told_what_was_rounded_and_lost(int8: Path) -> None:
    loss = read_manifest(int8).loss
    told = run_program("inspect", int8).stdout
    assert re.search(rf"loses +{loss}\n", told)
    assert re.search(r"dtype +float32, int8 weights but for key\n", told)
    assert _describe_parity(read_manifest(int8)) == [
        ["Parity", mock.ANY, "good"],
        ["Loses", loss, ""],
    ]
    assert _describe_parity(read_manifest(int8))[0][1].startswith("equals the original with the same int8 ")


@pytest.mark.parametrize("cost", [None, [], "a", {}, {"artifacts": [1]}, {"artifacts": [{"loss": "much"}]}])
def test_a_manifest_that_tells_no_loss_is_none_to_stumble_over(int8: Path, cost: object) -> None:
    manifest = read_manifest(int8)
    assert dataclasses.replace(manifest, parity={"cost": cost}).loss is None


@pytest.mark.parametrize("loss", [0.0042, math.nan])
def test_nothing_is_written_where_more_is_lost_than_may_be(
    of_bytes: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(CostResult, "loss", lambda *_: loss)
    words = rf"loss on held-out.txt: got {loss:.4f} bits .* at most 0.004; nothing"
    with pytest.raises(ParityError, match=words):
        export_checkpoint(of_bytes, tmp_path / "out", weights="int8", data=text, max_loss=0.004)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "words"), [("", "empty.txt, which is empty"), ("a", "a text of 1 tokens")])
def test_a_text_in_which_nothing_follows_is_refused(
    of_bytes: Path, tmp_path: Path, text: str, words: str
) -> None:
    data = tmp_path / "empty.txt"
    data.write_text(text)
    said: list[str] = []
    with pytest.raises(InputError, match=f"^data: got .*{words}, expected"):
        export_checkpoint(of_bytes, tmp_path / "out", data=data, say=said.append)
    assert list(tmp_path.iterdir()) == [data]
    assert text or said == []  # an empty one before anything is loaded


def test_a_text_that_the_model_cannot_read_is_refused_before_the_graph_is_made(
    of_bytes: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "build_model", None)
    with pytest.raises(InputError, match=r"^data: got a text for a model of token ids only .it was exported"):
        export_checkpoint(of_bytes, tmp_path / "out", data=text, tokenizer="none")
    assert list(tmp_path.iterdir()) == []


def test_artifacts_of_one_checkpoint_stand_side_by_side(
    int8: Path, of_bytes: Path, text: Path, tmp_path: Path
) -> None:
    export_checkpoint(of_bytes, tmp_path / "float32", verify=False)
    options: dict[str, Any] = {"lengths": [20], "batch_sizes": [1], "data": text}
    report = verify_artifact(tmp_path / "float32", beside=[int8], **options)
    cost = report.runtimes[0].cost
    assert cost is not None
    whole, small = cost.artifacts
    assert (whole.name, whole.agreement, whole.flip_rate) == ("float32", 1.0, 0.0)
    assert abs(cost.loss(whole) or 0) < 1e-5
    assert small.precision == "float32, int8 weights but for key"
    assert small.nbytes < whole.nbytes
    assert report.to_dict()["cost"]["artifacts"][1]["precision"] == small.precision
    (section,) = [each for each in page_from_verify(report).sections if each.title.startswith("What low")]
    assert section.tables[0].rows[1][:2] == ("out", small.precision)
    told = page_from_verify(dataclasses.replace(report, manifest=read_manifest(int8))).verdict
    assert told is not None
    assert told.headline == "Yes: it is the same model, with int8 weights but for key"


def test_what_does_not_belong_beside_is_refused_before_anything_is_opened(
    int8: Path, exported: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify._Verification, "run", None)
    with pytest.raises(InputError, match=r"beside: got .* of another checkpoint"):
        verify_artifact(int8, beside=[exported])
    with pytest.raises(ArtifactError, match="nothing"):
        verify_artifact(int8, beside=[exported / "nothing"])
    with pytest.raises(InputError, match=r"data_length: got 4000, expected from 2 to 64 tokens"):
        verify_artifact(int8, data=text, data_length=4000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": ("head",)}, "keep: got it without `weights`"),
        ({"weights": "int8", "keep": ("heads",)}, "keep: got 'heads', expected some of query_key, query"),
        ({"weights": "int2"}, "weights: got 'int2', expected one of int8, int4"),
        ({"weights": "int4"}, "weights: got int4 with `opset` 20, expected an `opset` from 21"),
        ({"max_loss": 0.1}, "max_loss: got it without `data`"),
        ({"max_loss": -0.1, "data": Path("a")}, "max_loss: got -0.1"),
        ({"data": Path("a"), "verify": False}, "data: got it with `verify=False`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportRequest(**fields)


@pytest.mark.parametrize(
    ("low_precision", "message"),
    [
        (LowPrecision("int8", ("query", "outer", "query")), None),
        (LowPrecision("int8", tuple(p for p in PROJECTIONS)), "weights: got int8 with every projection kept"),
        (
            LowPrecision("int4", ("query_key", "head")),
            r"int4 for encoder.* which reads 16 values, expected a multiple of 32.*; "
            r"put query,key,value,output,inner into `keep`",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    of_bytes: Path, low_precision: LowPrecision, message: str | None
) -> None:
    checkpoint = load_huggingface(str(of_bytes), LoadOptions())
    if message is None:
        build_model(checkpoint.spec, checkpoint.weights, "float32", low_precision)
        return
    with pytest.raises(InputError, match=message):
        build_model(checkpoint.spec, checkpoint.weights, "float32", low_precision)


def test_a_projection_that_the_model_lacks_is_no_choice(tmp_path: Path) -> None:
    config = config_t(attn_layers=["lsh"])
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    checkpoint = load_huggingface(str(folder), LoadOptions())
    for name in ("key", "head"):
        with pytest.raises(InputError, match=f"keep: got {name}, expected some .*: query_key, value, output"):
            build_model(checkpoint.spec, checkpoint.weights, "float32", LowPrecision("int8", (name,)))


def test_rounded_once_from_what_the_checkpoint_has(of_bytes: Path) -> None:
    """A bfloat16 artifact's int8 weights are those of a float32 one."""
    checkpoint = load_huggingface(str(of_bytes), LoadOptions())
    built = [
        build_model(checkpoint.spec, checkpoint.weights, dtype, LowPrecision("int8"))
        for dtype in ("float32", "bfloat16")
    ]
    weights = [model.get_submodule("encoder.layers.0.feed_forward.inner.0") for model in built]
    assert torch.equal(weights[0].weight, weights[1].weight)
    assert weights[1].bias.dtype == torch.bfloat16


def test_only_the_projections_are_stored_in_few_bits() -> None:
    assert projection_of("encoder.layers.3.attention.self_attention.query_key") == "query_key"
    assert projection_of("encoder.layers.3.attention.output.dense") == "output"
    assert projection_of("encoder.layers.3.feed_forward.inner.1") == "inner"
    assert projection_of("encoder.layers.3.feed_forward.outer") == "outer"
    assert projection_of("lm_head.projection") == "head"
    for name in ("classifier.dense", "qa_outputs", "embeddings.projection", "a.feed_forward.memory.query"):
        assert projection_of(name) is None


@pytest.mark.parametrize(("field", "value"), [("weights", "int2"), ("kept", ["heads"]), ("kept", "key")])
def test_a_manifest_that_says_otherwise_is_refused(
    int8: Path, tmp_path: Path, field: str, value: object
) -> None:
    values = json.loads((int8 / "manifest.json").read_text()) | {field: value}
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="missing or wrong field"):
        read_manifest(tmp_path)


def test_a_weight_off_by_one_step_fails_though_outputs_agree(of_bytes: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "out", "encoder.layers.1.feed_forward.outer.0.weight"
    export_checkpoint(of_bytes, out, weights="int8", dtype="bfloat16", verify=False)
    cases = ("--lengths", "1,20", "--batch-sizes", "2")
    sound = run_program("verify", out, *cases)
    assert (sound.status, sound.messages) == (0, [])
    model = onnx.load(str(out / "model.onnx"))
    (weight,) = (each for each in model.graph.initializer if each.name == name)
    data = bytearray(weight.raw_data)
    data[7] ^= 1
    weight.raw_data = bytes(data)
    onnx.save(model, str(out / "model.onnx"))
    manifest = read_manifest(out)
    manifest.files["model.onnx"] = sha256_of_file(out / "model.onnx")
    write_manifest(out, manifest)
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    found = run_program("verify", out, *cases, "--json", report, "--report", page)
    assert found.status == 1
    stored = "parity with eager: FAILED: 1 of 50 constants are not what the checkpoint gives"
    (error,) = (line for line in found.messages if line.startswith("Error: "))
    assert f"{stored}; {name} in model.onnx: got 1 of 512 numbers differ, most " in error
    values = json.loads(report.read_text())
    assert values["passed"]  # the outputs'
    assert [each["name"] for each in values["constants"]["wrong"]] == [name]
    assert "No: it stores other weights" in page.read_text()
