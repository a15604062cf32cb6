from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.fake_tensorrt import install_fake_tensorrt
from tests.runtimes.artifacts import write_artifact


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact, beside a fake TensorRT that works."""
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "10.14.1")
    install_fake_tensorrt(tmp_path, monkeypatch)
    return write_artifact(tmp_path / "out", dtype="float16")
