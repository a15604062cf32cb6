from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import (
    EngineFlags,
    EngineProfile,
    EngineRecord,
    PluginRecord,
    check_engine_name,
    engine_path,
    list_engines,
    read_engine_record,
    record_path,
    record_text,
)
from reformer_export.errors import ArtifactError, InputError

RECORD = EngineRecord(
    name="ada",
    runtime="tensorrt-rtx",
    runtime_version="1.7.1.116",
    compute_capabilities=("8.0", "12.0"),
    profiles=(EngineProfile((1, 1), (1, 512), (2, 2048)), EngineProfile((1, 64), (4, 4096), (8, 16384))),
    dtype="float16",
    model_sha256="a" * 64,
    engine_sha256="b" * 64,
    engine_bytes=1234,
    plugin=PluginRecord("libreformer_tensorrt.so", "c" * 64, 2, "0.1.0", embedded=True),
    flags=EngineFlags(refit=True, tf32=True),
    plugin_layers={"LSHAttention": 3, "LSHBuckets": 3, "LocalAttention": 3},
    build_seconds=12.5,
    tool_version="0.1.0",
)

FILE_NAMES = ("../x.so", "a/x.so", "", ".", "..", "x.so\0")
"""What is no file's name."""


def write(out: Path, values: Any, name: str = "ada") -> None:
    path = record_path(out, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, record_text(RECORD))
    assert read_engine_record(tmp_path, "ada") == RECORD


def test_an_engine_that_decodes(tmp_path: Path) -> None:
    assert (RECORD.decodes, RECORD.model_name, RECORD.longest) == (False, "model.onnx", 16384)
    assert not {"capacity", "num_hashes"} & json.loads(record_text(RECORD)).keys()
    record = dataclasses.replace(RECORD, capacity=32768)
    assert (record.decodes, record.model_name, record.longest) == (True, "decode.onnx", 32768)
    write(tmp_path, record_text(record))
    assert read_engine_record(tmp_path, "ada") == record


def change(*path: str | int, to: Any = None, remove: bool = False) -> dict[str, Any]:
    """The record's JSON with one value changed or removed."""
    values = json.loads(record_text(RECORD))
    place = values
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "text that is not JSON"),
        ([], "not an engine's record"),
        (change("engine_record_version", to=2), "got engine record version 2, expected 1"),
        (change("name", to="other"), "the record of an engine named 'other', not 'ada'"),
        (change("name", to="../ada"), "at '$.name'"),
        (change("name", to="ada\n"), "at '$.name'"),
        (change("runtime", to="onnxruntime"), "Invalid enum value 'onnxruntime' - at '$.runtime'"),
        (change("runtime", remove=True), "missing required field 'runtime'"),
        (change("more", to=1), "unknown or missing fields ('more')"),
        (change("dtype", to=["float32"]), "at '$.dtype'"),
        (change("compute_capabilities", to=[]), "length >= 1 - at '$.compute_capabilities'"),
        (change("compute_capabilities", to=["SM80"]), "at '$.compute_capabilities[0]'"),
        (change("profiles", to=[]), "length >= 1 - at '$.profiles'"),
        (change("profiles", 0, "minimum", to=[1]), "profile: got shapes of [1, 2] sizes"),
        (change("profiles", 0, "minimum", to=[1, 4096]), "expected 1 <= min <= opt <= max"),
        (change("profiles", 0, "minimum", to=[1, 1.5]), "at '$.profiles[0].minimum[1]'"),
        (change("profiles", 0, "maximum", to=[1, 2**63]), "at '$.profiles[0].maximum[1]'"),
        (change("profiles", 0, "best", to=[1, 1]), "unknown or missing fields ('profiles')"),
        (change("model_sha256", to="a" * 63), "at '$.model_sha256'"),
        (change("model_sha256", to="a" * 64 + "\n"), "at '$.model_sha256'"),
        (change("engine_sha256", to=None), "at '$.engine_sha256'"),
        (change("engine_bytes", to=-1), "at '$.engine_bytes'"),
        (change("plugin", to=None), "at '$.plugin'"),
        *((change("plugin", "file_name", to=name), "at '$.plugin.file_name'") for name in FILE_NAMES),
        (change("plugin", "abi_version", to="2"), "at '$.plugin.abi_version'"),
        (change("flags", "refit", to=1), "Expected 'bool', got 'int' - at '$.flags.refit'"),
        (change("flags", "refit", remove=True), "unknown or missing fields ('flags')"),
        (change("plugin_layers", "LSHBuckets", to=True), "got 'bool' - at '$.plugin_layers[...]'"),
        (change("build_seconds", to="long"), "at '$.build_seconds'"),
        (change("build_seconds", to=float("nan")), "at '$.build_seconds'"),
        (change("build_seconds", to=10**400), "at '$.build_seconds'"),
        (change("tool_version", to=""), "at '$.tool_version'"),
        (change("capacity", to=0), "at '$.capacity'"),
        (change("capacity", to=None), "unknown or missing fields ('capacity')"),
        (json.dumps({"a": "b" * 2**20}), "expected at most 1048576"),
    ],
)
def test_other_records_are_refused_in_one_line(tmp_path: Path, values: Any, message: str) -> None:
    write(tmp_path, values)
    with pytest.raises(ArtifactError) as caught:
        read_engine_record(tmp_path, "ada")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"ada.json: got no such file"):
        read_engine_record(tmp_path, "ada")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "a\\b", "-a", ".a", "a.", "a b", "ä", "a" * 101]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="engine name: got"):
        check_engine_name(name)


@pytest.mark.parametrize("name", ["a", "tensorrt-rtx", "fp16_65k.v2", "A" * 100])
def test_names(name: str) -> None:
    assert check_engine_name(name) == name


def test_engines_are_listed_by_name(tmp_path: Path) -> None:
    assert list_engines(tmp_path) == ()
    for name in ("b.engine", "a.engine", "a.json", ".b.partial-1", "no name.engine"):
        (tmp_path / "engines").mkdir(exist_ok=True)
        (tmp_path / "engines" / name).write_bytes(b"")
    assert list_engines(tmp_path) == ("a", "b")
    assert engine_path(tmp_path, "a") == tmp_path / "engines" / "a.engine"


@pytest.mark.parametrize(
    ("batch", "length", "index"),
    [
        (1, 1, 0),
        (2, 512, 0),
        (2, 2048, 1),
        (4, 2048, 1),
        (1, 2049, 1),
        (8, 16384, 1),
        (9, 64, None),
        (1, 16385, None),
    ],
)
def test_the_profile_for_a_shape(batch: int, length: int, index: int | None) -> None:
    assert RECORD.find_profile(batch, length) == index


def test_of_profiles_tuned_alike_the_smaller_is_found() -> None:
    large, small = EngineProfile((1, 1), (1, 512), (4, 8192)), EngineProfile((1, 1), (1, 512), (1, 2048))
    record = dataclasses.replace(RECORD, profiles=(large, small))
    assert record.find_profile(1, 512) == 1


@pytest.mark.parametrize(
    "shapes", [((0, 1), (1, 1), (1, 1)), ((1, 2), (1, 1), (1, 2)), ((2, 1), (2, 1), (1, 9))]
)
def test_profiles_go_upwards(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InputError, match="expected 1 <= min <= opt <= max"):
        EngineProfile(*shapes)
