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


def write(out: Path, values: Any, name: str = "ada") -> None:
    path = record_path(out, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, record_text(RECORD))
    assert read_engine_record(tmp_path, "ada") == RECORD


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
        ("[" * 5000, "text that is not JSON"),
        ([], "no engine's record"),
        ({}, "no engine's record"),
        (change("engine_record_version", to=2), "got engine record version 2, expected 1"),
        (change("engine_record_version", to=True), "got engine record version True, expected 1"),
        (change("name", to="other"), "record of an engine named 'other', expected that of 'ada'"),
        (change("name", to="../ada"), "name has the wrong form"),
        (change("runtime", to="onnxruntime"), "runtime is 'onnxruntime', none of tensorrt, tensorrt-rtx"),
        (change("runtime", remove=True), "no field 'runtime'"),
        (change("more", to=1), "unknown field 'more'"),
        (change("dtype", to=["float32"]), "dtype is"),
        (change("compute_capabilities", to=[]), "compute_capabilities is not a list of one or more"),
        (change("compute_capabilities", to=["SM80"]), "compute_capabilities has the wrong form"),
        (change("profiles", to=[]), "profiles is not a list of one or more"),
        (change("profiles", 0, "minimum", to=[1]), "profiles.minimum is not [batch, length]"),
        (change("profiles", 0, "minimum", to=[1, 4096]), "expected 1 <= min <= opt <= max"),
        (change("profiles", 0, "minimum", to=[1, 1.5]), "profiles.minimum is not a whole number"),
        (change("profiles", 0, "best", to=[1, 1]), "profiles has the fields"),
        (change("model_sha256", to="a" * 63), "model_sha256 has the wrong form"),
        (change("engine_sha256", to=None), "engine_sha256 is not a text"),
        (change("engine_bytes", to=-1), "engine_bytes is not a whole number"),
        (change("plugin", to=None), "plugin is NoneType, not an object"),
        (change("plugin", "file_name", to="../x.so"), "plugin.file_name is not the name of a file"),
        (change("plugin", "abi_version", to="2"), "plugin.abi_version is not a whole number"),
        (change("flags", "refit", to=1), "flags.refit is neither true nor false"),
        (change("flags", "refit", remove=True), "flags has the fields"),
        (change("plugin_layers", "LSHBuckets", to=True), "plugin_layers.LSHBuckets is not a whole number"),
        (change("build_seconds", to="long"), "build_seconds is not a number"),
        (change("tool_version", to=""), "tool_version is not a text"),
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
