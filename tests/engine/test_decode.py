"""Engines of decode.onnx around a fake TensorRT: what they take, what is recorded, and that nothing else runs
them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_record import EngineProfile, engine_path, read_engine_record
from reformer_export.artifact.engine_state import examine_engine
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import read_manifest
from reformer_export.engine import Progress, build_engine
from reformer_export.errors import ArtifactError, InputError, ReformerExportError
from reformer_export.runtimes.tensorrt.preflight import choose_engine, read_engine
from tests.cli.program import run_program
from tests.engine.builds import RTX, engine_files, write_decode_artifact
from tests.engine.fake_tensorrt import install_fake_tensorrt
from tests.runtimes.artifacts import MAX_LENGTH, write_artifact
from tests.runtimes.tensorrt.engines import make_machine, open_fake, write_engine, write_library

DECODE = dataclasses.replace(RTX, decode=True)
STEPS = EngineProfile((1, 1), (1, 1), (16, 1))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with decode.onnx, beside a fake TensorRT that works."""
    install_fake_tensorrt(tmp_path, monkeypatch)
    return write_decode_artifact(tmp_path / "out")


def test_an_engine_and_its_record(out: Path) -> None:
    seen: list[Progress] = []
    build = build_engine(out, DECODE, seen.append)
    record = read_engine_record(out, "tensorrt-rtx-decode")
    assert build.record == record
    assert build.path == out / "engines" / "tensorrt-rtx-decode.engine"
    assert record.profiles == (EngineProfile((1, 1), (1, 16), (1, MAX_LENGTH)), STEPS)
    assert (record.decodes, record.capacity) == (True, MAX_LENGTH)
    assert record.model_sha256 == sha256_of_file(out / DECODE_NAME)
    assert seen[0].phase == "Parsing decode.onnx"
    prompts, steps = json.loads(build.path.read_text())["profiles"]
    assert prompts == {
        "input_ids": [[1, 1], [1, 16], [1, 64]],
        "lengths": [[1], [1], [1]],
        "past.0.key": [[1, 16, 4]] * 3,
        "past.1.buckets": [[1, 2, 2, 1], [1, 2, 2, 64], [1, 2, 2, 64]],
    }
    assert steps["input_ids"] == [[1, 1], [1, 1], [16, 1]]
    assert steps["past.1.buckets"] == [[1, 2, 2, 1], [1, 2, 2, 64], [16, 2, 2, 64]]


def test_both_kinds_lie_side_by_side(out: Path) -> None:
    whole, decoding = build_engine(out, RTX).record, build_engine(out, DECODE).record
    assert (whole.decodes, decoding.decodes) == (False, True)
    assert whole.model_sha256 != decoding.model_sha256
    names = {f"tensorrt-rtx{kind}.{suffix}" for kind in ("", "-decode") for suffix in ("engine", "json")}
    assert engine_files(out) == names


def test_shapes_as_they_are_given(out: Path) -> None:
    profiles = (EngineProfile((1, 1), (2, 4), (4, 8)),)
    record = build_engine(out, dataclasses.replace(DECODE, profiles=profiles, capacity=24)).record
    assert (record.profiles, record.capacity) == (profiles, 24)
    steps = dataclasses.replace(DECODE, name="steps", profiles=(STEPS,))
    assert build_engine(out, steps).record.capacity == MAX_LENGTH


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 63}, "capacity: got 63 tokens, expected from 64, the longest prompt, to 64"),
        ({"capacity": 65}, "capacity: got 65 tokens"),
        ({"capacity": 7, "profiles": (EngineProfile((1, 1), (1, 8), (1, 8)),)}, "expected from 8, the"),
        ({"profiles": (EngineProfile((1, 1), (1, 8), (1, 65)),)}, "at most 64, the model's limit"),
    ],
)
def test_caches_that_do_not_fit(out: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_engine(out, dataclasses.replace(DECODE, **options))
    assert not (out / "engines").exists()


def test_an_artifact_without_decode_onnx(tmp_path: Path, out: Path) -> None:
    plain = write_artifact(tmp_path / "plain")
    with pytest.raises(InputError, match=r"decode: got an artifact without decode.onnx .*with `decode`"):
        build_engine(plain, DECODE)


@pytest.mark.parametrize("name", [DECODE_NAME, "model.onnx"])
def test_a_file_that_changed_is_not_parsed(out: Path, name: str) -> None:
    with (out / name).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="the file changed after the export"):
        build_engine(out, DECODE)


def test_the_commands_words(out: Path) -> None:
    arguments = ("engine", out, "--runtime", "tensorrt-rtx", "--compute-capability", "8.9", "--decode")
    outcome = run_program(*arguments, "--max", "1x32", "--max", "4x1", "--capacity", "48")
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert "built from decode.onnx" in lines
    assert "caches up to 48 tokens a sequence" in lines
    assert "profile 1: min / opt / max 1x1 / 4x1 / 4x1" in lines
    outcome = run_program(*arguments, "--name", "b", "--max", "1x32", "--capacity", "31")
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "--capacity: got 31 tokens, expected from 32" in outcome.error
    outcome = run_program(*arguments[:-1], "--name", "b", "--capacity", "31")
    assert "--capacity: got 31 without --decode" in outcome.error


def test_whole_passes_do_not_take_it(tmp_path: Path) -> None:
    """By itself it is not found, and by its name it is refused; beside another one that one is taken."""
    out, library = write_decode_artifact(tmp_path / "out"), write_library(tmp_path)
    machine = make_machine(library)
    manifest = read_manifest(out)
    decoding = write_engine(out, library, "steps", capacity=64, model_sha256=manifest.files[DECODE_NAME])
    with pytest.raises(ReformerExportError, match="got no engine for tensorrt"):
        open_fake(out, library)
    with pytest.raises(InputError, match=r"got an engine of decode\.onnx, expected one of model\.onnx"):
        open_fake(out, library, engine="steps")
    whole = write_engine(out, library, "whole")
    assert open_fake(out, library).record == whole
    assert choose_engine(out, "tensorrt", None, machine, decode=True) == decoding
    with pytest.raises(InputError, match=r"got an engine of model\.onnx, expected one of decode\.onnx"):
        choose_engine(out, "tensorrt", "whole", machine, decode=True)
    assert read_engine(out, manifest, decoding) == engine_path(out, "steps").read_bytes()


def test_it_belongs_to_its_decode_onnx(tmp_path: Path) -> None:
    out, library = write_decode_artifact(tmp_path / "out"), write_library(tmp_path)
    manifest = read_manifest(out)
    record = write_engine(out, library, "steps", capacity=64, model_sha256=manifest.files[DECODE_NAME])
    assert examine_engine(out, "steps").state == "ok"
    with (out / DECODE_NAME).open("ab") as stream:
        stream.write(b" ")
    assert examine_engine(out, "steps").state == "of another decode.onnx"
    without = dataclasses.replace(manifest, files={"model.onnx": manifest.files["model.onnx"]})
    with pytest.raises(ArtifactError, match=r"engine steps: got no decode\.onnx, expected"):
        read_engine(out, without, record)
