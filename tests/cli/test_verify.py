from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from numpy.typing import NDArray

from reformer_export.artifact.files import sha256_of_file
from reformer_export.parity import sweep
from tests.cli.program import Outcome, run_program, snapshot
from tests.edits import edit_json, vouch_for
from tests.hf_models import config_t, save_model

FEW = ("--lengths", "1,20", "--batch-sizes", "2")
"""Cases that take little time: dense, and two rounds of hashing with virtual padding."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of configuration T, `ReformerModel`, and its artifact `out`."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_model(folder, config_t(), transformers.ReformerModel)
    outcome = run_program("onnx", checkpoint, folder / "out", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported`, both parts, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def verify(folder: Path, *options: object) -> Outcome:
    return run_program("verify", folder / "out", *options)


def refused(folder: Path, *options: object) -> str:
    """The error of a verify that is the user's fault and changes nothing."""
    before = snapshot(folder)
    outcome = verify(folder, *options)
    assert (outcome.status, outcome.stdout) == (2, ""), outcome
    assert snapshot(folder) == before
    for part in ("got", "expected"):
        assert part in outcome.error
    return outcome.error


def change_model(
    folder: Path, which: str | list[int], change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    """Change the first initializer of a shape, or whose name ends so; the manifest's SHA-256 follows."""
    path = folder / "out" / "model.onnx"
    model = onnx.load(str(path))
    tensors = model.graph.initializer
    named = isinstance(which, str)
    tensor = next(t for t in tensors if (t.name.endswith(which) if named else list(t.dims) == which))
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, str(path))
    vouch_for(path)


# A sound artifact


def test_several_runtimes_are_compared_one_after_the_other(exported: Path) -> None:
    names = ("--runtime", "onnxruntime") * 2
    outcome = verify(exported, "--lengths", "9", "--batch-sizes", "1", *names, "--json", "-")
    assert outcome.status == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert [run["passed"] for run in report["runtimes"]] == [True, True]
    assert set(report) == {"artifact", "constants", "model_sha256", "runtimes"}


def test_a_sound_artifact_passes(exported: Path) -> None:
    before = snapshot(exported)
    outcome = verify(exported)
    assert (outcome.status, outcome.messages) == (0, [])
    assert "batch 1, length 64 " in outcome.stdout
    assert "FAILED" not in outcome.stdout
    stored, *_, rule, verdict = outcome.stdout.splitlines()
    assert stored.endswith(" constants are bit for bit what the checkpoint gives.")
    assert rule.startswith(
        "The tolerance of float32 is 5e-05, times the largest output where that is above 1;"
    )
    assert verdict.startswith("Passed: 12 cases; worst: batch")
    assert snapshot(exported) == before


def test_json_in_place_of_the_table(exported: Path) -> None:
    outcome = verify(exported, *FEW, "--json", "-")
    assert (outcome.status, outcome.messages) == (0, [])
    report = json.loads(outcome.stdout)
    assert (report["passed"], report["num_cases"], report["unexplained_flips"]) == (True, 3, 0)
    assert report["constants"]["passed"]
    assert report["constants"]["wrong"] == report["constants"]["computed"] == []
    assert report["model_sha256"] == sha256_of_file(exported / "out" / "model.onnx")
    assert [case["case"] for case in report["cases"]] == [
        {"length": 1, "batch": 2, "masked": False},
        {"length": 20, "batch": 2, "masked": False},
        {"length": 20, "batch": 2, "masked": True},
    ]
    assert all(case["pinned_error"] < 1e-5 for case in report["cases"])
    assert report["cases"][1]["layers"][0]["hashed"] == 2 * 2 * 2 * 20  # batch x heads x rounds x tokens


def test_json_into_a_file_with_the_table(exported: Path, tmp_path: Path) -> None:
    outcome = verify(
        exported, *FEW, "--json", tmp_path / "parity.json", "--runtime", "onnxruntime", "--seed", 5
    )
    assert outcome.status == 0
    assert "Passed: 3 cases" in outcome.stdout
    assert json.loads((tmp_path / "parity.json").read_text())["runtime"].startswith("onnxruntime CPU")
    assert [path.name for path in tmp_path.iterdir()] == ["parity.json"]


# Changes that must be found


STORED = "Error: parity with eager: FAILED: 1 of 29 constants are not what the checkpoint gives; "


def check_failure(outcome: Outcome, changed: str | None) -> dict[str, Any]:
    """The report of a failed comparison; its worst case is named on standard error, and before it the
    constant that was changed."""
    report: dict[str, Any] = json.loads(outcome.stdout, parse_constant=pytest.fail)
    assert (outcome.status, report["passed"]) == (1, False)
    failed = sum(not case["passed"] for case in report["cases"])
    *stored, outputs = outcome.messages
    assert f"parity with eager: FAILED: {failed} of 3 cases; " in outputs
    assert f"; worst: {report['worst']} (" in outputs
    assert [each["name"] for each in report["constants"]["wrong"]] == ([] if changed is None else [changed])
    assert [line.startswith(f"{STORED}{changed} in model.onnx: got ") for line in stored] == [True] * (
        changed is not None
    )
    return report


@pytest.mark.parametrize(
    ("which", "change", "changed"),
    [
        pytest.param(
            "encoder.layer_norm.weight",
            lambda w: w * np.float32(1.001),
            "encoder.layer_norm.weight",
            id="a layer norm",
        ),
        pytest.param(
            [32, 16],
            lambda w: w * np.float32(1.1),
            "encoder.layers.0.feed_forward.inner.0.weight",
            id="a feed-forward's matrix",
        ),
        pytest.param(
            "word_embeddings.weight",
            lambda w: np.roll(w, 1, axis=0),
            "embeddings.word_embeddings.weight",
            id="embeddings in disorder",
        ),
        pytest.param(
            "encoder.layer_norm.bias",
            lambda b: b * np.float32("nan"),
            "encoder.layer_norm.bias",
            id="NaN",
        ),
    ],
)
def test_changed_weights_fail(folder: Path, which: str | list[int], change: Any, changed: str) -> None:
    change_model(folder, which, change)
    report = check_failure(verify(folder, *FEW, "--json", "-"), changed)
    worst = [case["pinned_error"] for case in report["cases"]]
    assert all(error is None or error > 1e-5 for error in worst)  # null: not a number


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r[..., ::-1].copy(), id="buckets in another order"),
        pytest.param(lambda r: -r, id="signs"),
        pytest.param(lambda r: np.roll(r, 1, axis=0), id="heads in another order"),
        pytest.param(lambda r: np.random.default_rng(0).normal(size=r.shape).astype(np.float32), id="seed"),
        pytest.param(np.zeros_like, id="zeros"),
    ],
)
def test_changed_rotations_fail(folder: Path, change: Any) -> None:
    """With pinned buckets the arithmetic agrees; the flips betray the rotations."""
    change_model(folder, "rotations", change)
    changed = "encoder.layers.1.attention.self_attention.rotations"
    report = check_failure(verify(folder, *FEW, "--json", "-"), changed)
    assert report["unexplained_flips"] > 0
    assert report["max_pinned_error"] < 1e-5
    assert sum(layer["misplaced"] for case in report["cases"] for layer in case["layers"]) > 0


def test_buckets_that_do_not_reach_the_attention_fail(folder: Path) -> None:
    """Each part is right, but the attention gets other buckets than those that the hash chose."""
    path = folder / "out" / "model.onnx"
    model = onnx.load(str(path))
    (index,) = (i for i, node in enumerate(model.graph.node) if node.op_type == "LSHAttention")
    buckets = model.graph.node[index].input[2]
    model.graph.node.insert(index, onnx.helper.make_node("Sub", [buckets, buckets], ["no_buckets"]))
    model.graph.node[index + 1].input[2] = "no_buckets"
    onnx.save(model, str(path))
    vouch_for(path)
    report = check_failure(verify(folder, *FEW, "--json", "-"), None)
    assert report["max_free_error"] > 1e-4


def test_the_table_shows_the_failure(folder: Path) -> None:
    change_model(folder, "encoder.layer_norm.weight", lambda weight: 2 * weight)
    outcome = verify(folder, "--lengths", "9", "--batch-sizes", "1")
    assert outcome.status == 1
    assert outcome.stdout.count("FAILED") == 2
    why = "FAILED: 2 of 2 cases; the arithmetic differs by more than rounding; worst: batch 1, length 9"
    stored, outputs = outcome.messages
    assert stored.startswith(STORED)
    assert why in outputs


# Broken artifacts


def test_no_artifact(tmp_path: Path) -> None:
    assert "which does not exist" in refused(tmp_path)
    (tmp_path / "out").mkdir()
    assert "without manifest.json" in refused(tmp_path)
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert "not JSON" in refused(tmp_path)


def test_a_tampered_model(folder: Path) -> None:
    path = folder / "out" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "model.onnx: got SHA-256" in refused(folder, *FEW)
    path.write_bytes(b"no protobuf")
    vouch_for(path)
    refused(folder, *FEW)
    path.unlink()
    assert "model.onnx: got no such file" in refused(folder, *FEW)


def test_a_model_of_another_spec(folder: Path) -> None:
    """The graph has one LSH layer; the manifest says two."""
    edit_json(
        folder / "out" / "manifest.json",
        lambda values: values["spec"]["layers"].append(values["spec"]["layers"][1]),
    )
    refused(folder, *FEW)


@pytest.mark.parametrize("files", [None, {}, [], "model.safetensors", {"../config.json": "0" * 64}])
def test_a_manifest_that_does_not_say_what_was_exported(folder: Path, files: Any) -> None:
    edit_json(folder / "out" / "manifest.json", lambda values: values["source"].update(files=files))
    assert "got no list of the checkpoint's files" in refused(folder, *FEW)


# The checkpoint


def test_both_may_move_together(folder: Path) -> None:
    assert verify(folder, "--lengths", "9", "--batch-sizes", "1").status == 0
    moved = folder.rename(folder.parent / "moved")
    assert verify(moved, "--lengths", "9", "--batch-sizes", "1").status == 0


def test_an_artifact_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "out").symlink_to(folder / "out")
    assert verify(tmp_path / "elsewhere" / "deep", "--lengths", "9", "--batch-sizes", "1").status == 0


def test_a_checkpoint_that_moved_alone(folder: Path) -> None:
    (folder / "ReformerModel").rename(folder / "moved")
    message = refused(folder, *FEW)
    assert "got none where it was at the export" in message
    assert "give it with --checkpoint" in message
    assert verify(folder, "--checkpoint", folder / "moved", *FEW).status == 0
    edit_json(folder / "out" / "manifest.json", lambda values: values["source"].pop("path"))
    assert "(unknown)" in refused(folder, *FEW)
    edit_json(folder / "out" / "manifest.json", lambda values: values["source"].update(path=5))
    assert "(unknown)" in refused(folder, *FEW)


def test_another_checkpoint(folder: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path, config_t(hash_seed=4), transformers.ReformerModel)
    assert "got another config.json" in refused(folder, "--checkpoint", other, *FEW)
    shutil.copyfile(folder / "ReformerModel" / "config.json", other / "config.json")
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "got another model.safetensors" in refused(folder, "--checkpoint", other, *FEW)
    weights.unlink()
    assert "got no model.safetensors" in refused(folder, "--checkpoint", other, *FEW)
    for nowhere in (tmp_path / "nowhere", tmp_path):
        refused(folder, "--checkpoint", nowhere, *FEW)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lengths", "0"), "expected a length from 1 to 64"),
        (("--lengths", "65"), "expected a length from 1 to 64"),
        (("--lengths", "1,"), "--lengths: got '1,', expected whole numbers"),
        (("--lengths", "a"), "--lengths: got 'a'"),
        (("--lengths", ""), "--lengths: got ''"),
        (("--batch-sizes", "0"), "a batch from 1"),
        (("--batch-sizes", "1x2"), "--batch-sizes: got '1x2'"),
        (("--runtime", "tflite"), "--runtime: got 'tflite', expected onnxruntime or tensorrt"),
        (("--engine", "fast"), "--engine: got it with no TensorRT among the runtimes"),
        (
            ("--runtime", "onnxruntime", "--runtime", "tensorrt", "--report", "report.html"),
            "--report: got 2 runtimes, expected one a report",
        ),
        (("--json", "nowhere/parity.json"), "whose folder does not exist"),
        (("--json", "."), "a folder"),
        (("--json", "x" * 300), "File name too long"),
    ],
)
def test_options_that_do_not_fit(exported: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refused(exported, *options)


@pytest.mark.parametrize("options", [("--provider", "tpu"), ("--threads", "0"), ("--seed", "-1")])
def test_options_that_click_refuses(exported: Path, options: tuple[str, ...]) -> None:
    outcome = verify(exported, *options)
    assert outcome.status == 2
    assert f"'{options[0]}'" in outcome.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "verifying: got no more memory"),
        (OSError(28, "No space left on device", "weights"), "'No space left on device' (weights)"),
        (RuntimeError("a\nb" + "c" * 1000), "verifying: got RuntimeError: a bccc"),
    ],
)
def test_what_libraries_raise_is_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(sweep, "sweep", fail)
    line = refused(exported, *FEW)
    assert message in line
    assert len(line) < 600
