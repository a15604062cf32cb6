from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.artifacts import write_artifact
from tests.serving.servers import RunningServer, running_server


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with known answers, at most 64 tokens."""
    return write_artifact(tmp_path_factory.mktemp("serving") / "tiny")


@pytest.fixture(scope="session")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    """Serves `tiny` with small limits; tests must leave it as it was."""
    options = ("--client-timeout", "0.5", "--max-body", "100000", "--max-queue", "3", "--concurrency", "2")
    with running_server([tiny_artifact], *options) as running:
        yield running
