"""The file of a session on a GPU, which grows while it is measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu_results import load_results, update_results


def test_parts_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "gpu.json"
    update_results(path, {"layers": [1], "missing": {"layers": ["a"]}})
    update_results(path, {"models": [2], "missing": {"models": ["b"]}})
    update_results(path, {"layers": [1, 3], "missing": {"layers": []}})
    assert load_results(path) == {
        "layers": [1, 3],
        "models": [2],
        "missing": {"layers": [], "models": ["b"]},
    }
    assert [file.name for file in path.parent.iterdir()] == ["gpu.json"]
