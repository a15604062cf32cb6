"""What the tests of builds share."""

from __future__ import annotations

from pathlib import Path

from reformer_export.engine import EngineOptions

RTX = EngineOptions("tensorrt-rtx", compute_capabilities=("8.0", "12.0"))


def engine_files(out: Path) -> set[str]:
    """The names of what lies in OUT/engines."""
    return {path.name for path in (out / "engines").iterdir()}
