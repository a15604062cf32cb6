"""Checkpoints and artifacts where the hub's cache keeps them, through the jobs that need eager."""

from __future__ import annotations

from pathlib import Path

from reformer_export import export_checkpoint, verify_artifact
from tests.hub import write_hub_cache


def test_a_cached_checkpoint_is_exported_and_found_again(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = write_hub_cache(checkpoint, tmp_path / "hub", "me/my-reformer")
    exported = export_checkpoint(snapshot, tmp_path / "out", verify=False)
    assert exported.manifest.source["name"] == "me/my-reformer"
    assert not any(path.is_symlink() for path in exported.folder.iterdir())
    assert verify_artifact(exported.folder, lengths=(9,), batch_sizes=(1,)).passed


def test_a_cached_artifact_is_verified(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    snapshot = write_hub_cache(exported, tmp_path / "hub")
    report = verify_artifact(snapshot, checkpoint=str(checkpoint), lengths=(9,), batch_sizes=(1,))
    assert report.passed
