"""What is written where, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reformer_export import load, write_triton_repository
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.errors import ArtifactError, InputError, OutputError
from reformer_export.serving.triton.options import TritonRequest
from reformer_export.serving.triton.record import RECORD_NAME, read_repository_record
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import make_artifact, write_decode_engine, write_engine, write_library
from tests.serving.triton.engines import EMBEDDED


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "OUT", files={"config.json": b"{}"})


@pytest.fixture
def with_engines(tmp_path: Path) -> Path:
    """An artifact with the engines "fake", whose plugins lie beside it, "carried" and "rtx"."""
    library = write_library(tmp_path)
    out = make_artifact(tmp_path, library)
    write_engine(out, library, "carried", **EMBEDDED)
    write_engine(out, library, "rtx", runtime="tensorrt-rtx")
    return out


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_both_models_have_the_whole_artifact_and_share_its_files(out: Path, tmp_path: Path) -> None:
    written = write_triton_repository(out, tmp_path / "R")
    record = read_repository_record(tmp_path / "R")
    assert record == written.record
    assert names_in(tmp_path / "R") == {*record.files, RECORD_NAME}
    for model in ("reformer", "reformer-generate"):
        folder = tmp_path / "R" / model / "1" / "artifact"
        assert names_in(folder) == {"manifest.json", "config.json", MODEL_NAME}
        with load(folder, provider="cpu") as model_here:
            assert model_here.run([[5]])["logits"].shape == (1, 1, 258)
    first, second = ((tmp_path / "R" / name / "1" / "artifact" / MODEL_NAME) for name in record.models)
    assert first.samefile(second)
    assert not first.samefile(out / MODEL_NAME)  # a change of OUT must not reach the server


def test_the_command_says_where_and_how_to_start(out: Path, tmp_path: Path) -> None:
    outcome = run_program("triton", out, tmp_path / "R")
    assert outcome.status == 0
    assert f"tritonserver --model-repository={tmp_path / 'R'}" in outcome.stdout
    assert (
        "Without decode.onnx every new token takes a whole pass: `reformer-export onnx --decode`"
        in outcome.stderr
    )
    outcome = run_program("triton", out, tmp_path / "R", "--overwrite", "--json")
    assert json.loads(outcome.stdout)["models"] == ["reformer", "reformer-generate"]
    assert run_program("triton", out, tmp_path / "R").error == (
        f"Error: REPOSITORY: got {tmp_path / 'R'}, which exists, expected a new folder; use --overwrite or "
        "another REPOSITORY"
    )


@pytest.mark.parametrize("damage", [MODEL_NAME, "config.json"])
def test_a_changed_artifact_is_refused_and_nothing_is_left(out: Path, tmp_path: Path, damage: str) -> None:
    write_triton_repository(out, tmp_path / "R")
    before = names_in(tmp_path)
    (out / damage).write_bytes((out / damage).read_bytes() + b" ")
    with pytest.raises(
        ArtifactError, match=rf"{damage}: got SHA-256 \w+\.\.\., expected \w+\.\.\. as it was"
    ):
        write_triton_repository(out, tmp_path / "R", overwrite=True, name="other")
    assert names_in(tmp_path) == before
    assert read_repository_record(tmp_path / "R").models == ("reformer", "reformer-generate")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda folder: (folder / "a").write_text("x"), f"has no {RECORD_NAME} that this version wrote"),
        (lambda folder: write_artifact(folder / "x"), f"has no {RECORD_NAME} that this version wrote"),
        (None, "also holds mine"),
    ],
)
def test_a_folder_of_somebody_else_is_kept(
    out: Path, tmp_path: Path, fill: Callable[[Path], Any] | None, words: str
) -> None:
    folder = tmp_path / "R"
    if fill is None:
        write_triton_repository(out, folder)
        (folder / "mine").write_text("x")
    else:
        folder.mkdir()
        fill(folder)
    before = names_in(folder)
    with pytest.raises(OutputError, match=words):
        write_triton_repository(out, folder, overwrite=True)
    assert names_in(folder) == before


def test_engines_go_along_where_the_python_backend_runs_them(with_engines: Path, tmp_path: Path) -> None:
    written = write_triton_repository(with_engines, tmp_path / "R", runtime="tensorrt-rtx")
    folder = tmp_path / "R" / "reformer" / "1" / "artifact" / "engines"
    assert names_in(folder) == {"rtx.engine", "rtx.json"}
    readme = (tmp_path / "R" / "README.md").read_text(encoding="utf-8")
    assert "reformer-export[rtx,text]" in readme
    config = (tmp_path / "R" / "reformer" / "config.pbtxt").read_text(encoding="utf-8")
    assert "KIND_GPU" in config
    assert written.record.options["runtime"] == "tensorrt-rtx"


def test_no_engine_carries_code_into_a_server_unasked(with_engines: Path, tmp_path: Path) -> None:
    asked = {"backend": "tensorrt", "engine": "carried"}
    words = "engine: got carried, which carries the plugin library, expected .* use `allow_engine_code=True`"
    for fields in (asked, {"runtime": "tensorrt", "engine": "carried"}):
        with pytest.raises(InputError, match=words):
            write_triton_repository(with_engines, tmp_path / "R", **fields)
    write_triton_repository(with_engines, tmp_path / "R", **asked, allow_engine_code=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "engine: got none of carried, fake, expected the one to serve; name one with `engine`"),
        ({"engine": "fake"}, "got fake, whose plugin library lies beside it, .*engine OUT --embed-plugin"),
        (
            {"engine": "rtx"},
            'got rtx \\(of tensorrt-rtx\\), .*`backend="python"` and `runtime="tensorrt-rtx"`',
        ),
        ({"engine": "none"}, "none.json: got no such file"),
    ],
)
def test_an_engine_that_triton_cannot_serve(
    with_engines: Path, tmp_path: Path, fields: Any, words: str
) -> None:
    with pytest.raises((InputError, ArtifactError), match=words):
        write_triton_repository(
            with_engines, tmp_path / "R", backend="tensorrt", allow_engine_code=True, **fields
        )
    assert not (tmp_path / "R").exists()


def test_an_engine_of_another_model(with_engines: Path, tmp_path: Path) -> None:
    write_engine(with_engines, write_library(tmp_path), "old", model_sha256="1" * 64, **EMBEDDED)
    with pytest.raises(ArtifactError, match="engine old: got one of another model"):
        write_triton_repository(
            with_engines, tmp_path / "R", backend="tensorrt", engine="old", allow_engine_code=True
        )


def test_a_bfloat16_artifact_on_triton_s_own_cpu(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "OUT", dtype="bfloat16")
    with pytest.raises(InputError, match="provider: got auto for bfloat16, expected cuda"):
        write_triton_repository(out, tmp_path / "R", backend="onnxruntime")
    write_triton_repository(out, tmp_path / "R", backend="onnxruntime", provider="cuda", native="off")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backend": "pytorch"}, "backend: got 'pytorch', expected one of python, onnxruntime, tensorrt"),
        ({"name": "../a"}, "name: got '../a'"),
        ({"name": ""}, "name: got ''"),
        ({"max_batch_size": 0}, "max_batch_size: got 0, expected 1 to"),
        ({"queue_delay": -1}, "queue_delay: got -1"),
        ({"instances": True}, "instances: got True, expected an integer"),
        (
            {"backend": "onnxruntime", "mounted_at": "models"},
            "mounted_at: got 'models', expected an absolute path",
        ),
        ({"backend": "onnxruntime", "mounted_at": "/a/../b"}, "mounted_at"),
        ({"backend": "onnxruntime", "mounted_at": '/a\n"'}, "mounted_at"),
        ({"mounted_at": "/models"}, "mounted_at: got one that Triton's python backend does not take"),
        (
            {"backend": "onnxruntime", "num_hashes": 2},
            "num_hashes: got one that Triton's onnxruntime backend",
        ),
        (
            {"backend": "onnxruntime", "runtime": "tensorrt"},
            "runtime: got tensorrt with Triton's onnxruntime backend",
        ),
        (
            {"backend": "tensorrt", "runtime": "tensorrt-rtx"},
            "runtime: got tensorrt-rtx with .* which serves tensorrt-rtx",
        ),
        ({"backend": "tensorrt", "provider": "cpu"}, "provider: got one that tensorrt does not take"),
        ({"allow_engine_code": True}, "allow_engine_code: got one that onnxruntime does not take"),
        ({"threads": 0}, "threads: got 0"),
    ],
)
def test_options_that_do_not_fit(fields: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TritonRequest(**fields)


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"without manifest\.json"):
        write_triton_repository(tmp_path, tmp_path / "R")
    assert list(tmp_path.iterdir()) == []


def test_decode_engines_go_along(tmp_path: Path, artifact: Path) -> None:
    """The model that writes steps with them."""
    import shutil

    out = tmp_path / "OUT"
    shutil.copytree(artifact, out)
    library = write_library(tmp_path)
    write_engine(out, library, "whole", num_hashes=2)
    write_decode_engine(out, library, "steps", num_hashes=2)
    write_triton_repository(out, tmp_path / "R", runtime="tensorrt")
    for model in ("reformer", "reformer-generate"):
        engines = tmp_path / "R" / model / "1" / "artifact" / "engines"
        assert names_in(engines) == {"whole.engine", "whole.json", "steps.engine", "steps.json"}
    assert read_manifest(out).decode is not None
