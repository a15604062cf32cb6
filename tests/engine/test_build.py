"""The builder around a fake TensorRT, in real processes: records, errors, nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineFlags, EngineProfile, read_engine_record
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.engine import EngineOptions, Progress, build_engine
from reformer_export.errors import (
    ArtifactError,
    EngineError,
    InputError,
    MissingDependencyError,
    OutputError,
    ReformerExportError,
    RuntimeUnavailableError,
)
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.tensorrt import LIBRARY_VARIABLE
from tests.cli.program import snapshot
from tests.engine.builds import RTX, engine_files
from tests.runtimes.tensorrt.engines import write_library


def test_an_engine_and_its_record(out: Path, tmp_path: Path) -> None:
    profiles = (EngineProfile((1, 1), (1, 8), (1, 16)), EngineProfile((1, 1), (2, 32), (4, 64)))
    seen: list[Progress] = []
    logged: list[str] = []
    options = dataclasses.replace(RTX, name="two", profiles=profiles, embed_plugin=True, workspace=2**20)
    build = build_engine(out, options, seen.append, logged.append)
    record = read_engine_record(out, "two")
    assert build.record == record
    assert build.path == out / "engines" / "two.engine"
    library = tmp_path / "libreformer_tensorrt.so"
    assert (record.runtime, record.runtime_version) == ("tensorrt-rtx", "10.14.1")
    assert record.compute_capabilities == ("8.0", "12.0")
    assert record.profiles == profiles
    assert record.dtype == "float16"
    assert record.model_sha256 == sha256_of_file(out / MODEL_NAME)
    assert record.engine_sha256 == sha256_of_file(build.path)
    assert record.engine_bytes == build.path.stat().st_size
    assert (record.plugin.file_name, record.plugin.abi_version) == (library.name, ABI_VERSION)
    assert (record.plugin.sha256, record.plugin.embedded) == (sha256_of_file(library), True)
    assert record.flags == EngineFlags()
    assert record.plugin_layers == {"TableRead": 1}
    assert record.build_seconds > 0
    engine = json.loads(build.path.read_text())
    assert engine["flags"] == []  # not even TF32, TensorRT's default
    assert engine["capabilities"] == ["SM80", "SM120"]
    assert [profile["input_ids"] for profile in engine["profiles"]] == [
        [[1, 1], [1, 8], [1, 16]],
        [[1, 1], [2, 32], [4, 64]],
    ]
    assert engine["profiles"][1]["attention_mask"] == engine["profiles"][1]["input_ids"]
    assert engine["calls"] == {"WORKSPACE": 2**20}
    assert engine["plugins"] == [str(library)]
    assert engine["cwd"] == []
    assert seen[0].phase == "Parsing model.onnx"
    assert logged == ["TensorRT warning: a warning of two lines"]
    assert engine_files(out) == {"two.engine", "two.json"}


def test_operators_without_plugins_are_left_to_tensorrt(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"ResidualNorm": 3, "FinalNorm": 1, "TableRead": 1}
    monkeypatch.setattr("reformer_export.engine.build.check_onnx_structure", lambda _: nodes)
    assert build_engine(out, RTX).record.plugin_layers == {"TableRead": 1}


def test_the_default_profile_reaches_the_longest_sequence(out: Path) -> None:
    record = build_engine(out, RTX).record
    assert record.profiles == (EngineProfile((1, 1), (1, 16), (1, 64)),)
    assert record.name == "tensorrt-rtx"


def test_an_engine_is_replaced_only_when_asked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_engine(out, RTX).record
    before = snapshot(out)
    with pytest.raises(OutputError, match="which exists, expected a new name; use `overwrite=True`"):
        build_engine(out, RTX)
    assert snapshot(out) == before
    monkeypatch.setenv("FAKE_TENSORRT_SALT", "another engine")
    second = build_engine(out, dataclasses.replace(RTX, overwrite=True)).record
    assert second.engine_sha256 != first.engine_sha256
    assert read_engine_record(out, "tensorrt-rtx") == second
    assert engine_files(out) == {"tensorrt-rtx.engine", "tensorrt-rtx.json"}


def test_kernels_that_the_library_lacks_are_told(out: Path, tmp_path: Path) -> None:
    write_library(tmp_path, "86")
    (missing, compiled) = build_engine(out, RTX).notes
    assert "has no kernels for compute capability 8.0: the engine will not run there" in missing
    assert "has no machine code for compute capability 12.0: there the driver compiles" in compiled


FAILURES = [
    ("parse", EngineError, "node node_0 (Split): no such axis; node node_1 (Split): no such axis"),
    ("parse", EngineError, "and 1 more' from TensorRT's parser"),
    ("fallback", EngineError, "got plugin layers none, expected 1 TableRead"),
    (
        "plugin",
        RuntimeUnavailableError,
        "got no plugin TableRead after loading it (no reason in its log)",
    ),
    ("names", EngineError, "input input_ids: got (0, 0) for {'batch': 1, 'sequence': 1"),
    ("profile", EngineError, "profile: got 1x1 / 1x16 / 1x64, which TensorRT refuses"),
    ("build", EngineError, "got 'Error Code 1: no tactic' from TensorRT's builder"),
    ("build", EngineError, "(a plugin said: 'LSHBuckets: got 3, expected 4')"),
    ("abort", EngineError, "ended by SIGABRT ('terminate called without an active exception')"),
    ("kill", EngineError, "ended by SIGKILL"),
    ("kill", EngineError, "the system ends processes so when memory is short"),
    ("leave", EngineError, "ended early with status 3 ('no output')"),
    ("raise", EngineError, "ended early with status 1 ('TypeError: nobody expects this')"),
    ("full", OutputError, "got 'No space left on device', expected a writable place with room"),
]


@pytest.mark.parametrize(("failure", "error", "message"), FAILURES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_is_one_line_and_changes_nothing(
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    error: type[ReformerExportError],
    message: str,
    overwrite: bool,
) -> None:
    if overwrite:
        build_engine(out, RTX)
    before = snapshot(out)
    monkeypatch.setenv("FAKE_TENSORRT", failure)
    with pytest.raises(error) as caught:
        build_engine(out, dataclasses.replace(RTX, overwrite=overwrite))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(out) == before


def test_the_output_of_a_dead_process_goes_to_the_log(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "raise")
    logged: list[str] = []
    with pytest.raises(EngineError):
        build_engine(out, RTX, on_log=logged.append)
    assert logged[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("runtime", "version", "least"), [("tensorrt-rtx", "1.0.0.21", "1.2"), ("tensorrt", "10.6.0", "10.7")]
)
def test_a_runtime_that_is_too_old(
    out: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any, version: str, least: str
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
    with pytest.raises(MissingDependencyError, match=f"got version {version}, expected {least} or newer"):
        build_engine(out, EngineOptions(runtime))


@pytest.mark.parametrize(("runtime", "extra"), [("tensorrt-rtx", "rtx"), ("tensorrt", "tensorrt")])
def test_without_the_package(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any, extra: str
) -> None:
    for path in (tmp_path / "packages").iterdir():
        path.write_text("raise ImportError('No module named so')")
    with pytest.raises(MissingDependencyError, match=rf"pip install 'reformer-export\[{extra}\]'"):
        build_engine(out, EngineOptions(runtime))


@pytest.mark.parametrize("asked", ["9.0", "7.0", "10.0"])
def test_an_unsupported_compute_capability(out: Path, asked: str) -> None:
    with pytest.raises(InputError, match=f"got {asked}, expected one of 7.5, 8.0, 8.9, 12.0, for which"):
        build_engine(out, dataclasses.replace(RTX, compute_capabilities=("8.0", asked)))


@pytest.mark.parametrize("library", ["missing", "other", "old"])
def test_the_plugin_library_is_looked_at_before_anything_starts(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    path = tmp_path / "libreformer_tensorrt.so"
    message = {"missing": "got no ", "other": "a file that is not it", "old": "got ABI version 1"}[library]
    if library == "missing":
        monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "nowhere.so"))
    elif library == "other":
        path.write_bytes(b"\x7fELF")
    else:
        write_library(tmp_path, abi=1)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(RuntimeUnavailableError, match=message):
        build_engine(out, RTX)
    assert not (out / "engines").exists()


def test_a_stale_artifact(out: Path) -> None:
    with (out / MODEL_NAME).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="the file changed after the export"):
        build_engine(out, RTX)


def test_a_profile_beyond_the_model(out: Path) -> None:
    profile = EngineProfile((1, 1), (1, 1), (1, 65))
    with pytest.raises(InputError, match="expected at most 64, the model's limit"):
        build_engine(out, dataclasses.replace(RTX, profiles=(profile,)))


@pytest.mark.parametrize("name", ["../x", "a/b"])
def test_names_stay_in_the_folder(out: Path, name: str) -> None:
    with pytest.raises(InputError, match="engine name"):
        build_engine(out, dataclasses.replace(RTX, name=name))


def test_a_folder_that_cannot_be_made(out: Path) -> None:
    (out / "engines").write_bytes(b"a file")
    with pytest.raises(OutputError, match=r"writing .*tensorrt-rtx\.engine"):
        build_engine(out, RTX)


def test_building_imports_nothing_of_the_export(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from reformer_export.engine import EngineOptions, build_engine\n"
        f"build_engine(Path({str(out)!r}), EngineOptions('tensorrt-rtx', compute_capabilities=('8.0',)))\n"
        "print([name for name in sys.modules if name.startswith('tensorrt')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
