"""Engines of artifacts whose runs choose their rounds: one number is built in, told, and checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from reformer_export.artifact.engine_record import read_engine_record, record_path
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.engine import build_engine
from reformer_export.engine.num_hashes import build_in_num_hashes
from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes.tensorrt.preflight import check_num_hashes
from tests.cli.program import run_program
from tests.engine.builds import RTX
from tests.engine.fake_tensorrt import install_fake_tensorrt
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library
from tests.runtimes.test_num_hashes import MAX_HASHES, write_choice_artifact


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_tensorrt(tmp_path, monkeypatch)
    return write_choice_artifact(tmp_path / "choice")


@pytest.mark.parametrize("count", [1, 2])
def test_the_default_alone_changes(out: Path, count: int) -> None:
    """onnx reads it, and ONNX Runtime without that input computes with it."""
    data = build_in_num_hashes(out / MODEL_NAME, count)
    before, after = onnx.load(str(out / MODEL_NAME)), onnx.load_model_from_string(data)
    (default,) = [tensor for tensor in after.graph.initializer if tensor.name == "num_hashes"]
    assert onnx.numpy_helper.to_array(default).tolist() == [count]
    default.raw_data = np.array([MAX_HASHES], np.int64).tobytes()
    assert after == before
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([[5]]), "attention_mask": np.array([[1]])}
    assert session.run(None, feeds)[0][0, 0, 6] == 4 * count


def test_a_model_without_the_choice_is_refused(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "plain")
    with pytest.raises(ArtifactError, match="got 0 defaults of num_hashes, expected one"):
        build_in_num_hashes(out / MODEL_NAME, 1)
    (tmp_path / "cut.onnx").write_bytes((out / MODEL_NAME).read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="a field that ends beyond its message"):
        build_in_num_hashes(tmp_path / "cut.onnx", 1)


def test_the_number_is_in_the_record_and_reaches_tensorrt(out: Path) -> None:
    build = build_engine(out, dataclasses.replace(RTX, name="one", num_hashes=1))
    assert build.record.num_hashes == read_engine_record(out, "one").num_hashes == 1
    assert json.loads(build.path.read_text())["changed"] == 1  # bytes of the model: 2 became 1
    assert build_engine(out, dataclasses.replace(RTX, name="two", num_hashes=2)).record.num_hashes == 2
    lines = [" ".join(line.split()) for line in run_program("inspect", build.path).stdout.splitlines()]
    assert "hashes 1, built in" in lines
    inspected = json.loads(run_program("inspect", build.path, "--json").stdout)
    assert inspected["record"]["num_hashes"] == 1


def test_other_artifacts_records_are_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that engines that were built before are read."""
    install_fake_tensorrt(tmp_path, monkeypatch)
    out = write_artifact(tmp_path / "plain")
    build = build_engine(out, RTX)
    assert "num_hashes" not in json.loads(record_path(out, build.record.name).read_text())
    assert read_engine_record(out, build.record.name).num_hashes is None


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (None, r"`max_hashes` 2, whose runs choose, expected a number of hashes to build in"),
        (3, "got 3, expected a whole number from 1 to 2"),
        (0, "got 0, expected a whole number from 1 to 2"),
        (True, "got True, expected a whole number"),
    ],
)
def test_numbers_that_are_refused_before_any_work(out: Path, count: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_engine(out, dataclasses.replace(RTX, num_hashes=count))
    assert not (out / "engines").exists()


def test_a_run_uses_the_built_in_number_and_no_other(tmp_path: Path) -> None:
    out, library = write_choice_artifact(tmp_path / "out"), write_library(tmp_path)
    write_engine(out, library, num_hashes=1)
    with open_fake(out, library) as model:
        assert model.num_hashes == 1
        assert model.description.endswith("engine fake, 1 hashes")
        model.run([[5]])
        model.run([[5]], num_hashes=1)
        with pytest.raises(InputError, match="num_hashes: got 2, expected 1, which are built into"):
            model.run([[5]], num_hashes=2)


@pytest.mark.parametrize("built_in", [None, 3])
def test_a_record_that_does_not_fit_the_model(tmp_path: Path, built_in: int | None) -> None:
    out, library = write_choice_artifact(tmp_path / "out"), write_library(tmp_path)
    record = write_engine(out, library, num_hashes=built_in)
    with pytest.raises(ArtifactError, match=f"got {built_in} hashes built in, expected 1 to 2"):
        check_num_hashes(record, read_manifest(out), None)


def test_a_number_for_a_model_that_leaves_no_choice(tmp_path: Path) -> None:
    out, library = write_artifact(tmp_path / "out"), write_library(tmp_path)
    record = write_engine(out, library, num_hashes=1)
    with pytest.raises(ArtifactError, match="those of a model that leaves no choice"):
        check_num_hashes(record, read_manifest(out), None)
    plain = write_engine(out, library)
    assert check_num_hashes(plain, read_manifest(out), None) is None
    with pytest.raises(InputError, match="an artifact with 2 hashes built in"):
        check_num_hashes(plain, read_manifest(out), 2)
