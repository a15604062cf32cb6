"""The Python of the README does what it says, word for word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_six_lines_of_python_export_verify_and_run(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 6
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    verdict, *text = result.stdout.splitlines()
    assert verdict.startswith("Passed: ")
    assert len("\n".join(text)) > 50
    assert {path.name for path in tmp_path.iterdir()} >= {"OUT", "models"}
