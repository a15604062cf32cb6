from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import write_library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_library(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A tiny artifact."""
    return write_artifact(tmp_path / "out")
