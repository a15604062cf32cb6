from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest

from reformer_export.artifact import hub
from reformer_export.artifact.files import resolve_inside
from reformer_export.artifact.manifest import MODEL_NAME, check_files, read_manifest
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.runtimes import load
from reformer_export.runtimes.inspection import ArtifactSummary, inspect_path
from reformer_export.runtimes.onnx_file import read_onnx
from tests.hub import COMMIT, serve_repository, write_hub_cache
from tests.runtimes.artifacts import write_artifact

ROOT = Path(__file__).parents[2]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """An artifact where the hub's cache keeps it."""
    return write_hub_cache(write_artifact(tmp_path / "out"), tmp_path / "hub")


def test_what_means_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is here, or that is meant to be beside others that are, is never looked up."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "gone").symlink_to("nowhere")
    assert hub.is_hub_id("me/my-artifact")
    assert hub.is_hub_id("google/reformer-enwik8")
    for name in (
        "runs/first",
        "runs/second",
        "gone/x",
        "OUT",
        "./me/x",
        "me/x/",
        "/me/x",
        "../x",
        "a/b/c",
        "",
    ):
        assert not hub.is_hub_id(name), name
    for name in ("me\\x", "~/x", "me/x y", "me/\0", "mé/x", "-x/y"):
        assert not hub.is_hub_id(name), name
    for name in ("out/model.onnx", "engines/a.engine", "engines/a.json"):
        assert not hub.is_hub_id(name), name
    assert hub.is_hub_id("runs/second", meant=True)  # such as one with a revision


def test_a_path_object_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub.locate_artifact(Path("me/my-artifact")) == Path("me/my-artifact")
    assert hub.locate_artifact("OUT") == Path("OUT")


def test_without_the_hubs_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingDependencyError, match=r"downloads me/my-artifact.*pip install huggingface-hub"
    ):
        load("me/my-artifact")


def test_an_artifact_in_the_cache_runs(snapshot: Path) -> None:
    assert (snapshot / MODEL_NAME).is_symlink()
    with load(snapshot) as model:
        assert model.run([[5, 6, 7]])["logits"].shape == (1, 3, 258)
    found = inspect_path(snapshot)
    assert isinstance(found, ArtifactSummary)
    assert [file.state for file in found.files] == ["ok"]
    onnxruntime.InferenceSession(str(snapshot / MODEL_NAME), providers=["CPUExecutionProvider"])


def test_a_link_that_leaves_the_repository_is_refused(tmp_path: Path, snapshot: Path) -> None:
    """To another repository of the same cache, to the cache's own folder, and by way of a blob."""
    other = write_hub_cache(write_artifact(tmp_path / "other"), tmp_path / "hub", "me/other")
    blob = (snapshot / MODEL_NAME).resolve()
    (blob.parent / "way-out").symlink_to(other / MODEL_NAME)
    for target in (other / MODEL_NAME, tmp_path / "out" / MODEL_NAME, blob.parent / "way-out"):
        (snapshot / MODEL_NAME).unlink()
        (snapshot / MODEL_NAME).symlink_to(target)
        with pytest.raises(ArtifactError, match="tampered"):
            check_files(snapshot, read_manifest(snapshot))
    with pytest.raises(ArtifactError, match="tampered"):
        resolve_inside(snapshot, f"../../blobs/{blob.name}")


def test_links_beside_a_folder_that_is_no_cache_are_refused(tmp_path: Path) -> None:
    """A layout of the same kind without the cache's name of a repository is a stranger's folder."""
    snapshot = write_hub_cache(write_artifact(tmp_path / "out"), tmp_path / "hub")
    snapshot.parents[1].rename(tmp_path / "hub" / "mine")
    with pytest.raises(ArtifactError, match="tampered"):
        load(tmp_path / "hub" / "mine" / "snapshots" / COMMIT)


def test_a_blob_that_is_gone_is_named_by_its_file(snapshot: Path) -> None:
    (snapshot / MODEL_NAME).resolve().unlink()
    with pytest.raises(ArtifactError, match=rf"snapshots/{COMMIT}/model.onnx: got no such file"):
        load(snapshot)


def test_weights_of_their_own_file_are_read_through_links(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "out")
    model = onnx.load(str(folder / MODEL_NAME))
    expected = [tensor.SerializeToString() for tensor in model.graph.initializer]
    onnx.save(
        model,
        str(folder / MODEL_NAME),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=100,
    )
    snapshot = write_hub_cache(folder, tmp_path / "hub")
    assert (snapshot / "model.onnx.data").is_symlink()
    for place in (folder, snapshot):
        read = read_onnx(place / MODEL_NAME, external_data=True)
        assert [bytes(x.raw_data) for x in read.graph.initializer] == [
            bytes(onnx.TensorProto.FromString(content).raw_data) for content in expected
        ]
    onnxruntime.InferenceSession(str(snapshot / MODEL_NAME), providers=["CPUExecutionProvider"])


def test_what_a_folder_goes_by(tmp_path: Path, snapshot: Path) -> None:
    assert hub.name_of_folder(snapshot) == "me/my-artifact"
    assert hub.name_of_folder(tmp_path / "out") == "out"
    assert hub.blobs_of(snapshot) == snapshot.resolve().parents[1] / "blobs"
    assert hub.blobs_of(tmp_path) is None


@pytest.mark.slow
def test_an_artifact_by_its_hub_id(tmp_path: Path) -> None:
    """Downloaded once, then taken from the cache: with a network, offline when asked, and without one."""
    artifact = write_artifact(tmp_path / "again", files={"config.json": b"{}"})
    with serve_repository(artifact, "me/again") as (address, asked):
        for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
            asked.clear()
            result = run_program(tmp_path, address, "run", "me/again", "a", "--json", **extra)
            assert result.returncode == 0, result.stderr
            assert bool(asked) == (extra == {})
            assert '"top"' in result.stdout or '"sequences"' in result.stdout
        inspected = run_program(tmp_path, address, "inspect", "me/again")
        assert "models--me--again" in inspected.stdout
        unknown = run_program(tmp_path, address, "generate", "me/unknown", "--prompt", "a")
        assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)
        assert "the hub did not give it (it has no such model" in unknown.stderr
        asked.clear()
        (tmp_path / "me").mkdir()
        local = run_program(tmp_path, address, "run", "me/again", "a")
        assert (local.returncode, asked) == (2, [])
        assert "me/again, which does not exist" in local.stderr
        (tmp_path / "me").rmdir()
    gone = run_program(tmp_path, address, "run", "me/again", "a")
    assert gone.returncode == 0, gone.stderr


def run_program(
    folder: Path, address: str, *arguments: str, **extra: str
) -> subprocess.CompletedProcess[str]:
    """`reformer-export` in `folder`, with the hub at `address`."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(folder / "home"),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **extra,
    }
    command = [sys.executable, "-m", "reformer_export.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
