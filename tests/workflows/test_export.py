from __future__ import annotations

from pathlib import Path

import pytest

import reformer_export
from reformer_export.artifact import manifest as manifest_module
from reformer_export.artifact.manifest import check_files, read_manifest
from reformer_export.errors import CheckpointError, InputError, OutputError, ParityError
from reformer_export.export import exporter
from reformer_export.parity import compare, sweep
from reformer_export.spec import LSHAttentionSpec
from reformer_export.workflows.export import ExportRequest, export_checkpoint
from tests.cli.program import snapshot


def test_a_checkpoint_becomes_a_verified_artifact(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    exported = reformer_export.export_checkpoint(str(checkpoint), tmp_path / "out", say=said.append)
    assert exported.folder == tmp_path / "out"
    assert exported.manifest == read_manifest(exported.folder)
    assert exported.manifest.parity is not None
    assert exported.manifest.parity["passed"]
    check_files(exported.folder, exported.manifest)
    assert exported.size == sum((exported.folder / name).stat().st_size for name in exported.manifest.files)
    assert [line.split()[0] for line in said] == ["Loading", "Reading", "Tracing", "Comparing"]


def test_a_request_and_its_fields_are_one(checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(dtype="float16", num_hashes=3, logits="last", opset=19, verify=False)
    first = export_checkpoint(checkpoint, tmp_path / "first", request)
    second = export_checkpoint(
        checkpoint, tmp_path / "second", dtype="float16", num_hashes=3, logits="last", opset=19, verify=False
    )
    assert first.manifest.files == second.manifest.files
    manifest = first.manifest
    assert (manifest.dtype, manifest.opset, manifest.spec.logits, manifest.parity) == (
        "float16",
        19,
        "last",
        None,
    )
    assert [x.num_hashes for x in manifest.spec.layers if isinstance(x, LSHAttentionSpec)] == [3]


def test_the_manifest_is_written_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[manifest_module.Manifest] = []

    def count(folder: Path, manifest: manifest_module.Manifest) -> None:
        written.append(manifest)
        manifest_module.write_manifest(folder, manifest)

    monkeypatch.setattr(exporter, "write_manifest", count)
    exported = export_checkpoint(checkpoint, tmp_path / "out")
    assert written == [exported.manifest]


def test_an_artifact_that_differs_is_not_written(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compare.TOLERANCE, "float32", 1e-12)
    monkeypatch.setattr(sweep, "NOISE_UNITS", 0)  # eager's own noise would explain such an error
    before = snapshot(exported)
    with pytest.raises(ParityError, match=r"FAILED: .*nothing was written, use `verify=False`"):
        export_checkpoint(checkpoint, exported, overwrite=True)
    assert snapshot(exported) == before
    with pytest.raises(ParityError):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_checkpoint(checkpoint, tmp_path / "out", verify=False).manifest.parity is None


def test_what_does_not_fit(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="options: got hashes, expected ExportRequest, or fields"):
        export_checkpoint(checkpoint, out, hashes=3)
    with pytest.raises(InputError, match="got options and dtype"):
        export_checkpoint(checkpoint, out, ExportRequest(), dtype="float16")
    with pytest.raises(InputError, match="max_hashes: got 4 and `num_hashes` 2, expected one of them"):
        export_checkpoint(checkpoint, out, max_hashes=4, num_hashes=2)
    with pytest.raises(InputError, match="dtype: got 'float8', expected one of float32, float16, bfloat16"):
        export_checkpoint(checkpoint, out, dtype="float8")
    with pytest.raises(OutputError, match="which exists"):
        export_checkpoint(checkpoint, exported)
    with pytest.raises(CheckpointError, match="which does not exist"):
        export_checkpoint(tmp_path / "nowhere at all", out)
    assert list(tmp_path.iterdir()) == []
