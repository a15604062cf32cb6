"""`load`: what it takes, and that all else is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes import Runtime, RuntimeOptions, load
from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


def test_options_or_fields_of_them(out: Path) -> None:
    for model in (load(out, RuntimeOptions(threads=1)), load(str(out), threads=1), load(out)):
        with model:
            assert isinstance(model, Runtime)
            assert model.run([[5]])["logits"].argmax() == 6


@pytest.mark.parametrize(
    ("arguments", "fields", "got"),
    [
        ((), {"thread": 2}, "thread"),
        ((RuntimeOptions(),), {"threads": 2, "check": False}, "options and threads, check"),
        ((RuntimeOptions(),), {"thread": 2}, "options and thread"),
        (("cpu",), {}, "'cpu' as options"),
        (({"threads": 1},), {}, "{'threads': 1} as options"),
    ],
)
def test_anything_else_is_refused(
    out: Path, arguments: tuple[Any, ...], fields: dict[str, Any], got: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(out, *arguments, **fields)
    assert (caught.value.what, caught.value.got) == ("options", got)
    assert "fields of it: runtime, provider, threads" in str(caught.value)


@pytest.mark.parametrize("path", [None, 5, b"out", ["out"]])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_path_that_is_none(path: Any, runtime: Any) -> None:
    with pytest.raises(InputError) as caught:
        load(path, runtime=runtime)
    assert str(caught.value).startswith(f"path: got {path!r}, expected an artifact's folder; ")


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(ArtifactError):
        load("a\0b")
