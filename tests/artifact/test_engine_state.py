from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reformer_export.artifact.engine_record import engine_path, read_engine_record, record_path
from reformer_export.artifact.engine_state import (
    EngineState,
    examine_engine,
    examine_engines,
    inspect_engine,
    is_engine_path,
)
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.errors import ArtifactError
from tests.runtimes.tensorrt.engines import make_artifact, write_library


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifact with the engine "fake"."""
    return make_artifact(tmp_path, write_library(tmp_path))


@pytest.mark.parametrize("path_of", [engine_path, record_path])
def test_an_engine_by_its_file_or_its_record(out: Path, path_of: Callable[[Path, str], Path]) -> None:
    path = path_of(out, "fake")
    assert is_engine_path(path)
    found = inspect_engine(path)
    assert found == EngineState(read_engine_record(out, "fake"), "ok")
    assert json.loads(json.dumps(found.to_dict())) == {
        "kind": "engine",
        "record": json.loads(record_path(out, "fake").read_text()),
        "state": "ok",
        "host_code": None,
    }


@pytest.mark.parametrize(
    ("damage", "state"), [("engine", "changed"), ("gone", "missing"), ("model", "of another model.onnx")]
)
def test_what_no_longer_fits(out: Path, damage: str, state: str) -> None:
    path = engine_path(out, "fake")
    if damage == "gone":
        path.unlink()
    else:
        with (path if damage == "engine" else out / MODEL_NAME).open("ab") as stream:
            stream.write(b" ")
    assert examine_engine(out, "fake").state == state


def test_all_of_an_artifact(out: Path) -> None:
    engine_path(out, "stray").write_bytes(b"")
    fake, stray = (engine.entry() for engine in examine_engines(out))
    record = dataclasses.asdict(read_engine_record(out, "fake"))
    assert fake == {"name": "fake", "state": "ok", "host_code": None, "record": record}
    assert "got no such file, expected an engine's record" in stray.pop("problem")
    assert stray == {"name": "stray", "state": "unusable"}


def test_other_paths(out: Path) -> None:
    assert not is_engine_path(out)
    assert not is_engine_path(out / "manifest.json")
    with pytest.raises(ArtifactError, match="an engine outside of a folder named engines"):
        inspect_engine(out / "a.engine")
