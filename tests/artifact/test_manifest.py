from __future__ import annotations

import dataclasses
import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact import manifest
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    RuntimeNumHashes,
    TokenizerKind,
    TokenizerRecord,
    check_files,
    read_manifest,
    write_manifest,
)
from reformer_export.artifact.spec_values import values_from_spec
from reformer_export.errors import ArtifactError
from tests.edits import change_json
from tests.runtimes.artifacts import make_spec


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        spec=make_spec(),
        dtype="float16",
        opset=20,
        operators={"LSHBuckets": 1},
        source={"kind": "test", "files": {"config.json": "0" * 64}},
        rotations_sha256={"1": "0" * 64},
        versions={"python": "3.11"},
    )
    return dataclasses.replace(manifest, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of two files."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "config.json").write_bytes(b"{}")
    files = {name: sha256_of_file(tmp_path / name) for name in ("model.onnx", "config.json")}
    write_manifest(tmp_path, make_manifest(files=files))
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal_of(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_manifest(folder)
    return str(caught.value)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    for parity in (None, {"passed": True, "max_pinned_error": 1e-7}):
        manifest = make_manifest(files={"model.onnx": "1" * 64}, parity=parity)
        write_manifest(tmp_path, manifest)
        assert read_manifest(tmp_path) == manifest
    assert names_in(tmp_path) == ["manifest.json"]


def test_a_choice_of_hashes_is_read_as_it_was_written(folder: Path) -> None:
    manifest = make_manifest(runtime_num_hashes=RuntimeNumHashes(2))
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    values = json.loads((folder / "manifest.json").read_text())
    assert values["manifest_version"] == 1  # who does not know of it runs all rounds, which is right
    order = (
        "manifest_version spec max_length dtype weights kept inputs outputs opset operators dial tokenizer "
        "decode source rotations_sha256 versions files"
    )
    assert list(values) == [*order.split(), "parity"]
    assert "Only num_hashes = 2 equals transformers' draw" in values["dial"]["note"]


def test_a_manifest_from_before_there_was_a_choice(folder: Path) -> None:
    change_json(folder / "manifest.json", dial=...)
    assert read_manifest(folder).runtime_num_hashes is None


@pytest.mark.parametrize("kind", ["tokenizer.json", "bytes", "none"])
def test_how_text_becomes_ids_is_read_as_it_was_written(folder: Path, kind: TokenizerKind) -> None:
    manifest = make_manifest(tokenizer=TokenizerRecord(kind, "why"))
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    change_json(folder / "manifest.json", tokenizer=...)
    assert read_manifest(folder).tokenizer is None


@pytest.mark.parametrize(
    "tokenizer", [[], "bytes", {}, {"kind": "words"}, {"kind": None}, {"kind": "none", "detail": 1}]
)
def test_a_wrong_tokenizer_is_refused(folder: Path, tokenizer: object) -> None:
    change_json(folder / "manifest.json", tokenizer=tokenizer)
    with pytest.raises(ArtifactError, match="a missing or wrong field"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "dial",
    [
        *([], 2, {}, {"input": "num_hashes"}, {"input": "num_hashes", "max_hashes": None}),
        {"input": "num_hashes", "max_hashes": 3},  # the layers have 2
        {"input": "num_hashes", "max_hashes": 2.0},
        {"input": "other", "max_hashes": 2},
    ],
)
def test_a_choice_of_hashes_that_does_not_fit(folder: Path, dial: Any) -> None:
    change_json(folder / "manifest.json", dial=dial)
    assert "a missing or wrong field" in refusal_of(folder)


@pytest.mark.parametrize(
    ("most", "counts"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8)), (16, (1, 2, 4, 8, 16))]
)
def test_the_counts_worth_comparing(most: int, counts: tuple[int, ...]) -> None:
    assert RuntimeNumHashes(most).counts == counts


def test_a_folder_reached_through_a_link_is_read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(folder)
    check_files(link, read_manifest(link))


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    assert "without manifest.json" in refusal_of(tmp_path)
    assert "nowhere, which does not exist, expected a folder" in refusal_of(tmp_path / "nowhere")
    (tmp_path / "manifest.json").mkdir()
    assert "without manifest.json" in refusal_of(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert re.search("got the file .*model.onnx, .*; give the folder", refusal_of(tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"manifest_version": 1,', "not JSON"),
        (b"[]", "not a manifest"),
        (b"{}", "not a manifest"),
        (b'{"manifest_version": 2}', "manifest version 2, expected 1"),
        (b'{"manifest_version": "1"}', "manifest version '1', expected 1"),
        (b'{"manifest_version": 1}', "missing required field 'dtype'"),
    ],
)
def test_broken_manifests_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    refusal = refusal_of(tmp_path)
    assert message in refusal
    assert "\n" not in refusal


def test_a_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)  # sparse
    assert f"got {MAX_MANIFEST_BYTES + 1} bytes" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spec", ..., "'spec'"),
        ("spec", [], "got 'array' - at '$.spec'"),
        ("spec", {"layers": "abc"}, "spec that is refused"),
        ("dtype", "int8", "'int8' - at '$.dtype'"),
        ("dtype", [], "at '$.dtype'"),
        ("opset", "20", "Expected 'int', got 'str' - at '$.opset'"),
        ("opset", True, "Expected 'int', got 'bool' - at '$.opset'"),
        ("opset", float("inf"), "Expected 'int', got 'float' - at '$.opset'"),
        ("operators", {"LSHBuckets": "1"}, "Expected 'int', got 'str' - at '$.operators[...]'"),
        ("source", [["a", 1]], "got 'array' - at '$.source'"),
        ("rotations_sha256", {"1": None}, "got 'null' - at '$.rotations_sha256[...]'"),
        ("versions", None, "got 'null' - at '$.versions'"),
        ("files", ..., "'files'"),
        ("files", ["model.onnx"], "got 'array' - at '$.files'"),
        ("files", {"model.onnx": 1}, "got 'int' - at '$.files[...]'"),
        ("parity", ..., "'parity'"),
        ("parity", True, "got 'bool' - at '$.parity'"),
    ],
)
def test_wrong_fields_are_refused(folder: Path, field: str, value: Any, message: str) -> None:
    change_json(folder / "manifest.json", **{field: value})
    refusal = refusal_of(folder)
    assert message in refusal
    assert refusal.startswith(f"{folder / 'manifest.json'}: got ")


def test_a_wrong_spec_is_refused(folder: Path) -> None:
    spec = values_from_spec(make_spec()) | {"num_heads": 0}
    change_json(folder / "manifest.json", spec=spec)
    assert "num_heads: got 0" in refusal_of(folder)


def test_unchanged_files_pass(folder: Path) -> None:
    check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["model.onnx", "config.json"])
def test_changed_and_missing_files_are_named(folder: Path, name: str) -> None:
    manifest = read_manifest(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ArtifactError, match=rf"{name}: got SHA-256 .* changed after the export"):
        check_files(folder, manifest)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: got no such file"):
        check_files(folder, manifest)
    (folder / name).symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError, match="tampered"):
        check_files(folder, manifest)


def test_files_that_the_system_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(manifest, "sha256_of_file", refuse)
    with pytest.raises(ArtifactError, match="Input/output error"):
        check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "x" * 300, "a\0"])
def test_files_elsewhere_are_not_looked_at(folder: Path, name: str) -> None:
    manifest = read_manifest(folder)
    manifest = dataclasses.replace(manifest, files={**manifest.files, name: "0" * 64})
    with pytest.raises(ArtifactError):
        check_files(folder, manifest)


def test_a_manifest_must_name_the_model(folder: Path) -> None:
    manifest = dataclasses.replace(read_manifest(folder), files={})
    with pytest.raises(ArtifactError, match=r"got no model\.onnx"):
        check_files(folder, manifest)
