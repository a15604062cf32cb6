from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A tiny artifact."""
    return write_artifact(tmp_path / "out")
