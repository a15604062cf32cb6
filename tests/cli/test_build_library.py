from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reformer_export.cli import build_library
from reformer_export.errors import LibraryBuildError
from reformer_export.libraries.build import LibraryBuild
from reformer_export.libraries.build_options import LibraryOptions
from reformer_export.libraries.cache import BuildRecord, BuiltFile
from tests.cli.program import run_program

RECORD = BuildRecord(
    record_version=1,
    version="0.1.0",
    sources_sha256="ab" * 32,
    platform="Linux x86_64",
    architectures=(80, 90),
    tensorrt=False,
    built=1.0,
    seconds=12.3,
    files={"libreformer_onnxruntime.so": BuiltFile("cd" * 32, 1234567)},
)


class Builder:
    """Stands in for build_libraries."""

    def __init__(self) -> None:
        self.asked: list[tuple[LibraryOptions, bool]] = []
        self.is_new = True
        self.error: Exception | None = None

    def __call__(self, options: LibraryOptions, overwrite: bool, say: Any, advance: Any) -> LibraryBuild:
        self.asked.append((options, overwrite))
        say("Compiling")
        advance(1, 2)
        if self.error is not None:
            raise self.error
        return LibraryBuild(Path("/cache/build"), RECORD, self.is_new)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(build_library, "build_libraries", made)
    return made


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), (LibraryOptions(), False)),
        (("--cuda",), (LibraryOptions(cuda=True), False)),
        (
            ("--tensorrt", "--architectures", "80;90", "--overwrite"),
            (LibraryOptions(tensorrt=True, architectures=(80, 90)), True),
        ),
        (("--cuda", "--architectures", "all"), (LibraryOptions(cuda=True, architectures="all"), False)),
    ],
)
def test_the_options(builder: Builder, arguments: tuple[str, ...], asked: Any) -> None:
    assert run_program("build-library", *arguments).status == 0
    assert builder.asked == [asked]


def test_what_it_says(builder: Builder) -> None:
    outcome = run_program("build-library")
    assert outcome.messages == ["Compiling", "Built."]
    assert "Native libraries in /cache/build" in outcome.stdout
    assert re.search(r"CUDA kernels for +sm_80, sm_90\n", outcome.stdout)
    assert "1,234,567 B, SHA-256 cdcd" in outcome.stdout
    builder.is_new = False
    assert "built already; --overwrite" in run_program("build-library").stderr


def test_as_json(builder: Builder) -> None:
    values = json.loads(run_program("build-library", "--json").stdout)
    assert (values["folder"], values["is_new"], values["note"]) == ("/cache/build", True, "")
    assert values["files"]["libreformer_onnxruntime.so"]["size"] == 1234567


def test_a_failure_is_one_line(builder: Builder) -> None:
    builder.error = LibraryBuildError("building the library: cmake", "exit status 1", "success", "see x.log")
    outcome = run_program("build-library")
    assert outcome.status == 2
    failure = "Error: building the library: cmake: got exit status 1, expected success; see x.log"
    assert outcome.messages == ["Compiling", failure]


@pytest.mark.parametrize("value", ["9.0", "sm_90", "", "10"])
def test_architectures_that_are_none(builder: Builder, value: str) -> None:
    outcome = run_program("build-library", "--cuda", "--architectures", value)
    assert outcome.status == 2
    assert outcome.error.startswith("Error: --architectures: got ")
    assert builder.asked == []


def test_no_gpu_to_build_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("reformer_export.libraries.gpus.DRIVER", str(tmp_path / "none.so"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome = run_program("build-library", "--cuda")
    assert outcome.status == 2
    assert outcome.error == (
        "Error: --architectures: got native, and no NVIDIA driver, expected a GPU here, or the numbers of "
        "those that the library is for; give them, such as --architectures 80;90, or --architectures all"
    )
    assert list(tmp_path.iterdir()) == []
