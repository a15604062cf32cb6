from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from reformer_export.artifact import files
from reformer_export.artifact.files import (
    JsonFile,
    json_text,
    replace_file,
    resolve_inside,
    sha256_of_file,
    write_atomically,
)
from reformer_export.errors import CheckpointError, InputError, OutputError, ReformerExportError

FILE = JsonFile("a letter", "write it again", max_bytes=200_000, error=CheckpointError)


@dataclass(frozen=True)
class Letter:
    """A kind of file."""

    to: Literal["me", "you"]
    pages: int = 1

    def __post_init__(self) -> None:
        if self.pages > 9:
            raise InputError("pages", self.pages, "at most 9", "write less")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal_of(read: Any, *arguments: Any) -> str:
    """The one line that a reader of `FILE` refuses a file with."""
    with pytest.raises(CheckpointError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410")


@pytest.mark.parametrize("name", ["a", "a/b", "./a", "a/../b", "..a"])
def test_names_inside_the_folder(tmp_path: Path, name: str) -> None:
    assert resolve_inside(tmp_path, name) == (tmp_path / name).resolve()


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "a/../../b", "/etc/passwd", "link/a", "to_file", "a\0b", "loop/a/../../.."]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret")
    (folder / "link").symlink_to(tmp_path)
    (folder / "to_file").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ReformerExportError, match="tampered"):
        resolve_inside(folder, name)


def test_json_text_knows_no_infinity() -> None:
    text = json_text({"a": float("inf"), "b": [1.5, float("nan"), (-float("inf"), "x")], "c": True})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, [None, "x"]],
        "c": True,
    }


def test_a_file_is_whole_or_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def refuse(*_paths: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OutputError, match=r"No space left.*free some space"):
        write_atomically(path, "new")
    assert names_in(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.json", "new")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["missing/a", "file/a", "folder", "x" * 300])
def test_files_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="expected a writable place"):
        write_atomically(tmp_path / name, "text")
    assert names_in(tmp_path) == ["file", "folder"]


def test_links_are_followed_and_pipes_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "target").read_text() == "text"
    assert (tmp_path / "link").is_symlink()

    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_atomically(tmp_path / "pipe", "text")
    reader.join(timeout=10)
    assert got == ["text"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"", "text that is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"to": "me",', "text that is not JSON (Expecting property name"),
        (b"\xff\xfe", "text that is not JSON (UnicodeDecodeError)"),
        (b"[" * 100_000, "text that is not JSON (RecursionError)"),
        (b"9" * 5000, "text that is not JSON (ValueError)"),
        (b'"' + b"x" * 200_000, "200001 bytes, expected at most 200000; write it again"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: bytes, got: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    assert refusal_of(FILE.read, path).startswith(f"{path}: got {got}")


def test_a_file_is_not_read_before_its_size_is_known(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(2**40)  # sparse
    assert f"got {2**40} bytes" in refusal_of(FILE.read, tmp_path / "a.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path):
        assert refusal_of(FILE.read, path) == f"{path}: got no such file, expected a letter; write it again"
    named = JsonFile("a letter", "write it again", missing=lambda path: CheckpointError(f"no {path.name}"))
    assert refusal_of(named.read, tmp_path / "a.json") == "no a.json"


def test_a_file_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert "got 'Permission denied', expected a readable file" in refusal_of(FILE.read, tmp_path / "a.json")


def test_objects_and_their_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"letter_version": 2}')
    assert FILE.read(path) == FILE.read_object(path) == {"letter_version": 2}
    assert FILE.read_version(path, "letter_version", 2) == {"letter_version": 2}
    assert "got letter version 2, expected 1; write it again, or install the reformer-export that" in (
        refusal_of(FILE.read_version, path, "letter_version", 1)
    )
    path.write_text('{"letter_version": true}')
    assert "got letter version True, expected 1" in (refusal_of(FILE.read_version, path, "letter_version", 1))
    for text, kind in (("[]", "list"), ("null", "NoneType"), ("{}", None)):
        path.write_text(text)
        assert "got JSON that is not a letter, expected an object with letter_version" in (
            refusal_of(FILE.read_version, path, "letter_version", 1)
        )
        if kind:
            assert f"got JSON that is a {kind}, expected a letter" in refusal_of(FILE.read_object, path)


def test_fields_are_checked() -> None:
    assert FILE.convert(Path("a"), {"to": "me", "pages": 2, "more": 0}, Letter) == Letter("me", 2)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([], "Expected 'object', got 'array'"),
        ({}, "Object missing required field 'to'"),
        ({"to": "them\n" * 100}, "Invalid enum value 'them"),
        ({"to": "\ud800"}, "surrogates not allowed"),
        ({"to": "me", "\ud800": 1}, "surrogates not allowed"),
        ({"to": "me", "pages": True}, "Expected 'int', got 'bool' - at '$.pages'"),
        ({"to": "me", "pages": 1.0}, "Expected 'int', got 'float' - at '$.pages'"),
        ({"to": "me", "pages": 10}, "pages: got 10, expected at most 9"),
    ],
)
def test_wrong_fields_are_refused(values: Any, got: str) -> None:
    refusal = refusal_of(FILE.convert, Path("a"), values, Letter)
    assert refusal.startswith("a: got a missing or wrong field (")
    assert got in refusal
    assert len(refusal) < 500


def make_torn(folder: Path, name: str, age: float) -> Path:
    torn = folder / f".{name}.partial-0123abcd"
    torn.write_text("half")
    os.utime(torn, (time.time() - age,) * 2)
    return torn


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that a killed process lets go of")
def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    other = make_torn(tmp_path, "b.json", 60)
    make_torn(tmp_path, "a.json", 60)
    write_atomically(tmp_path / "a.json", "new")
    assert names_in(tmp_path) == [other.name, "a.json"]
    young = make_torn(tmp_path, "a.json", 0)
    write_atomically(tmp_path / "a.json", "newer")
    assert set(tmp_path.iterdir()) == {tmp_path / "a.json", young, other}


def test_what_a_living_process_writes_is_kept(tmp_path: Path) -> None:
    with replace_file(tmp_path / "a.json") as stream:
        (partial,) = tmp_path.iterdir()
        os.utime(partial, (time.time() - 60,) * 2)
        write_atomically(tmp_path / "a.json", "short")
        stream.write(b"long")
    assert names_in(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"long"
