"""What `inspect` says of a repository: whole, edited, contradictory, damaged, hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reformer_export import write_triton_repository
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.errors import ArtifactError
from reformer_export.libraries.operators import find_native_library
from reformer_export.serving.triton.inspection import inspect_repository
from reformer_export.serving.triton.record import RECORD_NAME
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import make_artifact, write_engine, write_library
from tests.serving.triton.engines import EMBEDDED


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_triton_repository(write_artifact(tmp_path / "OUT"), tmp_path / "R")
    return tmp_path / "R"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def states(repository: Path) -> dict[str, str]:
    return {file.name: file.state for file in inspect_repository(repository).files}


@pytest.mark.parametrize("name", ["", RECORD_NAME])
def test_one_that_is_whole(repository: Path, tmp_path: Path, name: str) -> None:
    found = inspect_repository(repository / name)
    assert (found.problem, set(states(repository).values())) == ("", {"ok"})
    outcome = run_program("inspect", repository / name)
    assert (outcome.status, outcome.stderr) == (0, "")
    for words in ("reformer, reformer-generate", "tritonserver --model-repository", "text-generation"):
        assert words in outcome.stdout
    outcome = run_program("inspect", repository / name, "--json", "--report", tmp_path / "page.html")
    assert json.loads(outcome.stdout) == json.loads(json.dumps(found.to_dict()))
    assert "As it was written" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_a_user_may_change(repository: Path) -> None:
    config = repository / "reformer" / "config.pbtxt"
    edit(config, "count: 1", "count: 4")
    edit(config, "max_batch_size: 16", "max_batch_size: 64")
    edit(config, "dynamic_batching {", "version_policy { all {} }\\ndynamic_batching {".replace("\\n", "\n"))
    (repository / "README.md").write_text("ours")
    found = inspect_repository(repository)
    assert found.problem == ""
    edited = {name for name, state in states(repository).items() if state == "edited"}
    assert edited == {"reformer/config.pbtxt", "README.md"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name: "input_ids"', 'name: "ids"', "with another input than the artifact's"),
        ("TYPE_FP32", "TYPE_FP16", "with another output than the artifact's"),
        ("dims: [ -1, 258 ]", "dims: [ -1, 257 ]", "with another output than the artifact's"),
        ("allow_ragged_batch: true", "", "with another input than the artifact's"),
        ('backend: "python"', 'backend: "onnxruntime"', "with another backend than the artifact's"),
        ('name: "reformer"', 'name: "other"', "with another name than the artifact's"),
        ("max_batch_size: 16", "max_batch_size: 0", "with max_batch_size 0, where 16 was written"),
        ("instance_group {", "instance_group ", "config.pbtxt: got "),
    ],
)
def test_a_configuration_that_contradicts_the_artifact(
    repository: Path, old: str, new: str, words: str
) -> None:
    edit(repository / "reformer" / "config.pbtxt", old, new)
    outcome = run_program("inspect", repository)
    assert outcome.status == 1
    assert words in outcome.error
    assert f"{words}" in outcome.stdout


def test_onnxruntime(tmp_path: Path) -> None:
    if find_native_library() is None:
        pytest.skip("no native library")
    repository = tmp_path / "R"
    write_triton_repository(write_artifact(tmp_path / "OUT"), repository, backend="onnxruntime")
    config = repository / "reformer" / "config.pbtxt"
    edit(config, str(repository), "/elsewhere")  # as after a move
    assert inspect_repository(repository).problem == ""
    edit(config, "/1/lib", "/1/other-lib")
    edit(config, 'key: "use_tf32"', 'key: "tf32"')
    problem = inspect_repository(repository).problem
    assert "with the operator library /elsewhere/reformer/1/other-lib" in problem
    assert "with use_tf32 not given, where 0 was written" in problem
    record = json.loads((repository / RECORD_NAME).read_text(encoding="utf-8"))
    record["library"]["abi_version"] = 3
    (repository / RECORD_NAME).write_text(json.dumps(record), encoding="utf-8")
    assert "of ABI version 3, where this version needs" in inspect_repository(repository).problem


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_batch_size: 16", 'max_batch_size: "16"'),
        ("max_batch_size: 16", "max_batch_size { rows: 16 }"),
        ("optimization {", "optimization: 5\nother {"),
        ("execution_accelerators {", "execution_accelerators: CUDA\nother {"),
        ('parameters {\n        key: "use_tf32"', 'parameters: "use_tf32"\nother { key: ""'),
        ("input {", "input: 5\nother {"),
    ],
)
def test_a_field_of_another_kind(tmp_path: Path, old: str, new: str) -> None:
    write_triton_repository(
        write_artifact(tmp_path / "OUT"), tmp_path / "R", backend="onnxruntime", native="off"
    )
    edit(tmp_path / "R" / "reformer" / "config.pbtxt", old, new)
    assert "reformer/config.pbtxt with " in inspect_repository(tmp_path / "R").problem


def test_tensorrt(tmp_path: Path) -> None:
    library = write_library(tmp_path)
    out = make_artifact(tmp_path, library)
    write_engine(out, library, "carried", **EMBEDDED)
    fields: dict[str, Any] = {"backend": "tensorrt", "engine": "carried", "allow_engine_code": True}
    write_triton_repository(out, tmp_path / "R", **fields)
    found = inspect_repository(tmp_path / "R")
    assert (found.problem, found.engine and found.engine.name) == ("", "carried")
    outcome = run_program("inspect", tmp_path / "R")
    assert "Engine carried" in outcome.stdout
    assert "--backend-config=tensorrt,version-compatible=true" in outcome.stdout
    with (tmp_path / "R" / "reformer" / "1" / "model.plan").open("ab") as stream:
        stream.write(b" ")
    assert "reformer/1/model.plan changed" in inspect_repository(tmp_path / "R").problem


@pytest.mark.parametrize("name", [f"reformer/1/artifact/{MODEL_NAME}", "reformer-generate/1/model.py"])
def test_damage(repository: Path, name: str) -> None:
    (repository / name).write_bytes(b"x")
    assert f"{name} changed" in run_program("inspect", repository).error
    (repository / name).unlink()
    assert f"{name} missing" in run_program("inspect", repository).error


def no_object(record: dict[str, Any]) -> Any:
    return [record]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["files"].update({"../../secret": "0" * 64}),
        lambda record: record["files"].update({"/etc/passwd": "0" * 64}),
        lambda record: record["files"].update({"a/./../../b": "0" * 64}),
        lambda record: record["files"].update({"README.md": "no hash"}),
        lambda record: record.update(manifest="../OUT/manifest.json"),
        lambda record: record.update(models=[]),
        lambda record: record.update(models=["../x"]),
        lambda record: record.update(repository_version=2),
        lambda record: record.update(options={"backend": "pytorch"}),
        lambda record: record.update(options={"colour": 1}),
        lambda record: record.update(options=5),
        lambda record: record.pop("files"),
        no_object,
    ],
)
def test_a_record_that_is_none(repository: Path, change: Callable[[Any], Any]) -> None:
    path = repository / RECORD_NAME
    record = json.loads(path.read_text(encoding="utf-8"))
    changed = change(record)
    path.write_text(json.dumps(changed if change is no_object else record), encoding="utf-8")
    with pytest.raises(ArtifactError):
        inspect_repository(repository)
    outcome = run_program("inspect", repository)
    assert outcome.status == 2
    assert str(path) in outcome.error


def test_a_link_that_leaves_the_repository(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (repository / "README.md").unlink()
    (repository / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="expected a path inside"):
        inspect_repository(repository)
