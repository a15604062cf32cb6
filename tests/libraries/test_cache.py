"""Which built library is found, and what is never taken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from reformer_export import __version__
from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries import cache, installed, sources
from reformer_export.libraries.cache import (
    RECORD_NAME,
    RECORD_VERSION,
    BuildRecord,
    BuiltFile,
    builds_folder,
    cache_folder,
    find_built_library,
)
from reformer_export.libraries.installed import describe_origin, library_name, library_path
from reformer_export.libraries.sources import find_sources, hash_sources

NAME = library_name("reformer_onnxruntime")
VARIABLE = "THE_VARIABLE"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package whose library is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    package = tmp_path / "_native"
    package.mkdir()
    (package / NAME).write_bytes(b"the package's")
    monkeypatch.setattr(installed, "INSTALLED", package)
    return tmp_path


def make_build(name: str, **fields: object) -> Path:
    """A build in the cache with one library; its path."""
    builds = builds_folder()
    assert builds is not None
    folder = builds / name
    folder.mkdir(parents=True)
    for private in (builds.parent, builds, folder):
        private.chmod(0o700)
    path = folder / NAME
    path.write_bytes(b"built")
    record = BuildRecord(
        record_version=RECORD_VERSION,
        version=__version__,
        sources_sha256="0",
        platform="Linux",
        architectures=(),
        tensorrt=False,
        built=1.0,
        seconds=1.0,
        files={NAME: BuiltFile(cache.sha256_of_file(path), path.stat().st_size)},
    )
    record = dataclasses.replace(record, **fields)
    (folder / RECORD_NAME).write_text(json.dumps(dataclasses.asdict(record)))
    return path


def test_the_order_is_variable_build_package(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = home / "_native" / NAME
    assert library_path("reformer_onnxruntime", VARIABLE) == packaged
    assert describe_origin(packaged, VARIABLE) == "of the package"
    built = make_build("cpu")
    assert library_path("reformer_onnxruntime", VARIABLE) == built
    assert describe_origin(built, VARIABLE) == f"built here, in {built.parent}"
    assert library_path("reformer_tensorrt", VARIABLE) == home / "_native" / library_name("reformer_tensorrt")
    monkeypatch.setenv(VARIABLE, str(home / "other.so"))
    assert library_path("reformer_onnxruntime", VARIABLE) == home / "other.so"
    assert describe_origin(home / "other.so", VARIABLE) == f"named by ${VARIABLE}"


def test_the_newest_build_with_cuda_wins() -> None:
    old = make_build("old", built=1.0)
    new = make_build("new", built=2.0)
    assert find_built_library(NAME) == new
    old_cuda = make_build("old-cuda", built=0.5, architectures=(80,))
    assert find_built_library(NAME) == old_cuda
    new_cuda = make_build("new-cuda", built=0.7, architectures=(90,))
    assert find_built_library(NAME) == new_cuda
    assert old.exists()


def test_the_folder_is_named_by_version_and_sources(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    folder = builds_folder()
    assert folder is not None
    assert folder.parent == home / "reformer-export" / "libraries"
    assert folder.name == f"{__version__}-{hash_sources(find_sources())[:16]}"
    make_build("cpu")
    monkeypatch.setattr(cache, "__version__", "9.9.9")
    assert find_built_library(NAME) is None


@pytest.mark.parametrize("change", [b"", b"buil", b"built!", b"BUILT"])
def test_a_changed_library_is_refused(change: bytes) -> None:
    path = make_build("cpu")
    path.write_bytes(change)
    with pytest.raises(RuntimeUnavailableError, match=r"expected 5 bytes of SHA-256 \w{64}, as it was built"):
        library_path("reformer_onnxruntime", VARIABLE)


def test_a_removed_library_is_refused() -> None:
    make_build("cpu").unlink()
    with pytest.raises(RuntimeUnavailableError, match="got 'No such file or directory'"):
        find_built_library(NAME)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"record_version": 1}', '{"record_version": 2}'])
def test_a_damaged_record_is_refused(text: str) -> None:
    path = make_build("cpu")
    (path.parent / RECORD_NAME).write_text(text)
    with pytest.raises(RuntimeUnavailableError, match=r"delete its folder, then build again"):
        find_built_library(NAME)


def test_half_a_build_is_not_looked_at(home: Path) -> None:
    folder = make_build("cpu").parent
    folder.rename(folder.with_name(".cpu.partial-1234"))
    assert find_built_library(NAME) is None


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_what_others_may_have_written_is_not_run(depth: int, mode: int) -> None:
    path = make_build("cpu")
    assert find_built_library(NAME) == path
    path.parents[depth].chmod(mode)
    assert find_built_library(NAME) is None


def test_another_user_s_build_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    make_build("cpu")
    monkeypatch.setattr(cache.os, "geteuid", lambda: 4242)
    assert find_built_library(NAME) is None


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert cache_folder() == home / "reformer-export"
    monkeypatch.setenv("HOME", str(home / "me"))
    for value in ("", "relative/folder"):  # the specification wants an absolute one
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == home / "me" / ".cache" / "reformer-export"

    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    assert find_built_library(NAME) is None


def test_without_a_build_no_source_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "find_sources", lambda: pytest.fail("looked for the sources"))
    assert find_built_library(NAME) is None


def test_looking_for_a_build_writes_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    find_built_library(NAME)
    assert sorted(home.rglob("*")) == before


def test_every_source_is_hashed_and_no_test(tmp_path: Path) -> None:
    for name in ("a.cc", "tests/a.cc", "kernels/b.cu"):
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    hashes = {hash_of(tmp_path / "sources")}
    for name, other in (("tests/a.cc", False), ("a.cc", True), ("kernels/b.cu", True), ("new.h", True)):
        (tmp_path / "sources" / name).write_text("two")
        count = len(hashes)
        hashes.add(hash_of(tmp_path / "sources"))
        assert (len(hashes) > count) == other, name
    (tmp_path / "sources" / "new.h").rename(tmp_path / "sources" / "renamed.h")
    assert hash_of(tmp_path / "sources") not in hashes


def hash_of(folder: Path) -> str:
    sources.hash_sources.cache_clear()
    return hash_sources(folder)
