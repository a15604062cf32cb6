from __future__ import annotations

from typing import Any

import pytest

from reformer_export.errors import InputError
from reformer_export.serving import ServeOptions
from reformer_export.serving.options import Artifact, artifact_from_text

ONE = (Artifact("a", "a"),)


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("OUT", "OUT", "OUT"),
        ("build/out/", "out", "build/out/"),
        ("bible=build/out", "bible", "build/out"),
        ("google/reformer-enwik8", "reformer-enwik8", "google/reformer-enwik8"),
        ("a/b=c", "b=c", None),
        ("=x", "=x", None),
        ("..", None, None),
    ],
)
def test_names(text: str, name: str | None, path: str | None) -> None:
    if path is None and name is not None:
        with pytest.raises(InputError, match="NAME="):
            artifact_from_text(text)
        return
    artifact = artifact_from_text(text)
    assert name is None or (artifact.name, artifact.path) == (name, path)


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 70000},
        {"port": "8000"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_batch": 0},
        {"max_batch": True},
        {"max_batch_tokens": 0},
        {"concurrency": 0},
        {"concurrency": 10**6},
        {"drain": -1},
        {"host": 5},
        {"allow_hosts": (5,)},
        {"artifacts": ()},
        {"artifacts": (*ONE, *ONE)},
        {"log_inputs": 1},
    ],
)
def test_what_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ServeOptions(**{"artifacts": ONE, **fields})


@pytest.mark.parametrize("name", ["", ".", "a/b", "a b", "-a", "a" * 129, "a\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError):
        Artifact(name, "a")
