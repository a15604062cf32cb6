from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from reformer_export.artifact import folder as artifact_folder
from reformer_export.artifact.folder import ABANDONED_SECONDS, check_new_folder, new_folder, partial_folder
from reformer_export.errors import ArtifactError, OutputError
from tests.cli.program import snapshot
from tests.runtimes.artifacts import write_artifact


def write_new(out: Path, overwrite: bool = False, failure: BaseException | None = None) -> None:
    """Write OUT with one file, or fail half way."""
    with new_folder(out, overwrite) as folder:
        (folder / "new").write_text("new")
        if failure is not None:
            raise failure


def test_the_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with new_folder(out, overwrite=False) as folder:
        assert folder.parent == out.parent
        (folder / "new").write_text("new")
        assert not out.exists()
    assert snapshot(tmp_path) == {"a": None, "a/b": None, "a/b/out": None, "a/b/out/new": b"new"}


def test_a_relative_name_follows_no_later_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out"), overwrite=False) as folder:
        monkeypatch.chdir("elsewhere")
        (folder / "new").write_text("new")
    assert (tmp_path / "out" / "new").is_file()


def test_a_tilde_that_no_shell_has_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path("~/out"), Path("~")):
        with pytest.raises(OutputError, match=rf"^OUT: got {out}, whose ~ nobody has replaced"):
            write_new(out)
    assert snapshot(tmp_path) == {}
    Path("~").mkdir()  # somebody means it
    write_new(Path("~/out"))


@pytest.mark.parametrize("failure", [ValueError(), ArtifactError("it"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, failure: BaseException) -> None:
    old = write_artifact(tmp_path / "old")
    before = snapshot(tmp_path)
    for out in (tmp_path / "out", tmp_path / "a" / "b" / "out", old):
        with pytest.raises(type(failure)):
            write_new(out, overwrite=True, failure=failure)
        assert snapshot(tmp_path) == before


def test_a_partial_folder_is_gone_unless_it_was_renamed(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "a" / "b" / "out") as partial:
        (partial / "file").write_text("")
    assert snapshot(tmp_path) == {}
    with partial_folder(tmp_path / "a" / "out") as partial:
        partial.rename(tmp_path / "a" / "out")
    assert snapshot(tmp_path) == {"a": None, "a/out": None}
    with pytest.raises(OutputError, match=r"writing .*/out\.engine: got 'No space left"):
        fail_in_partial_folder(tmp_path / "out", OSError(errno.ENOSPC, "full"))


def fail_in_partial_folder(out: Path, failure: Exception) -> None:
    with partial_folder(out, ".engine"):
        raise failure


def fill_meanwhile(out: Path, other: Path, failure: BaseException | None = None) -> None:
    """Write OUT while another program writes the file `other`."""
    with new_folder(out, overwrite=False):
        other.parent.mkdir(exist_ok=True)
        other.write_text("")
        if failure is not None:
            raise failure


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        fill_meanwhile(tmp_path / "a" / "out", tmp_path / "a" / "other", ValueError())
    with pytest.raises(OutputError, match="which exists"):
        fill_meanwhile(tmp_path / "out", tmp_path / "out" / "other")
    assert snapshot(tmp_path) == {"a": None, "a/other": b"", "out": None, "out/other": b""}


def test_a_full_disk_is_told_however_it_is_wrapped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"No space left on device.*free some space.*nothing was changed"):
        write_new(out, failure=OSError(errno.ENOSPC, "full"))
    wrapped = RuntimeError("the exporter failed")
    wrapped.__cause__ = OSError(errno.EFBIG, "full")
    with pytest.raises(OutputError, match="File too large"):
        write_new(out, failure=wrapped)
    with pytest.raises(OSError, match="no such model"):  # a library's own use of OSError
        write_new(out, failure=OSError("no such model"))
    assert snapshot(tmp_path) == {}


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="expected a writable place"):
            write_new(out)
    assert snapshot(tmp_path) == {"file": b""}


def test_what_exists_is_kept(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    before = snapshot(tmp_path)
    for name in ("artifact", "empty", "file", "link"):
        with pytest.raises(OutputError, match=r"which exists, expected a new folder; use `overwrite=True`"):
            write_new(tmp_path / name)
    assert snapshot(tmp_path) == before


def test_overwrite_replaces_an_artifact_or_an_empty_folder(tmp_path: Path) -> None:
    old = write_artifact(tmp_path / "old", files={"config.json": b"{}"})
    (old / "engines").mkdir()
    (old / "engines" / "a.engine").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("old", "empty", "new"):
        write_new(tmp_path / name, overwrite=True)
        assert snapshot(tmp_path / name) == {"new": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new", "old"]


def test_overwrite_touches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").write_text("")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"manifest_version": 3, "name": "x"}')
    (tmp_path / "file").write_text("")
    artifact = write_artifact(tmp_path / "artifact")
    (tmp_path / "link").symlink_to("artifact")
    (artifact / "notes.txt").write_text("")
    before = snapshot(tmp_path)
    for name, reason in {
        "folder": "has no manifest.json that this version wrote",
        "extension": "has no manifest.json that this version wrote",
        "file": "is no artifact's folder",
        "link": "is no artifact's folder",
        "artifact": "also holds notes.txt",
    }.items():
        with pytest.raises(OutputError, match=reason):
            write_new(tmp_path / name, overwrite=True)
        with pytest.raises(OutputError, match=reason):
            check_new_folder(tmp_path / name, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(artifact_folder, "_exchange", lambda first, second: False)


def test_overwrite_without_exchange(tmp_path: Path, no_exchange: None) -> None:
    test_overwrite_replaces_an_artifact_or_an_empty_folder(tmp_path)


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_move_that_fails_half_way_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, renames: int
) -> None:
    """The old folder is renamed away first, then the new one into its place."""
    out = write_artifact(tmp_path / "out")
    before = snapshot(tmp_path)
    rename, done = Path.rename, []

    def fail_once(self: Path, target: Path) -> Path:
        done.append(target)
        if len(done) == renames + 1:
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_new(out, overwrite=True)
    assert snapshot(tmp_path) == before


def test_an_interrupt_after_the_move_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_exchange: None
) -> None:
    out = write_artifact(tmp_path / "out")
    rename = Path.rename

    def interrupt_after(self: Path, target: Path) -> Path:
        result = rename(self, target)
        if target == out:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(artifact_folder.Path, "rename", interrupt_after)
    with pytest.raises(KeyboardInterrupt):
        write_new(out, overwrite=True)
    assert snapshot(tmp_path) == {"out": None, "out/new": b"new"}


def test_an_interrupt_after_the_exchange_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_artifact(tmp_path / "out")
    exchange = artifact_folder._exchange

    def interrupt_after(first: Path, second: Path) -> bool:
        exchange(first, second)
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact_folder, "_exchange", interrupt_after)
    with pytest.raises(KeyboardInterrupt):
        write_new(out, overwrite=True)
    assert snapshot(tmp_path) == {"out": None, "out/new": b"new"}


def make_partial(tmp_path: Path, name: str, age: float) -> Path:
    partial = tmp_path / name
    partial.mkdir()
    (partial / "model.onnx").write_text("half")
    os.utime(partial, (time.time() - age,) * 2)
    return partial


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    old = make_partial(tmp_path, ".out.partial-00000000", 2 * ABANDONED_SECONDS)
    young = make_partial(tmp_path, ".out.partial-00000001", 0)
    other = make_partial(tmp_path, ".out2.partial-00000000", 2 * ABANDONED_SECONDS)
    write_new(tmp_path / "out")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_what_a_living_process_writes_is_kept(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", overwrite=False) as partial:
        os.utime(partial, (time.time() - 2 * ABANDONED_SECONDS,) * 2)
        write_new(tmp_path / "out")
        assert partial.exists()
        shutil.rmtree(tmp_path / "out")
    assert snapshot(tmp_path) == {"out": None}


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and the exchange of two names")
@pytest.mark.parametrize("exists", [False, True])
def test_a_kill_before_any_step_leaves_the_old_or_the_new(tmp_path: Path, exists: bool) -> None:
    """A child that kills itself before its n-th look at or change of the file system, for every n."""
    outcomes = set()
    for step in range(1000):
        work = tmp_path / str(step)
        work.mkdir()
        out = write_artifact(work / "out") if exists else work / "out"
        old = snapshot(out)
        child = os.fork()
        if child == 0:
            try:
                _kill_before(step)
                write_new(out, overwrite=True)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        found = snapshot(out)
        assert found in (old, {"new": b"new"}), f"killed before step {step}"
        outcomes.add(found == old)
        if os.WIFEXITED(status):
            break
    assert os.WIFEXITED(status)
    assert outcomes == {True, False}


def _kill_before(step: int) -> None:
    """SIGKILL this process at the audit event of the file system number `step`."""
    left = [step]

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "ctypes.call_function", "ctypes.dlsym") or event.startswith(("os.", "shutil.")):
            left[0] -= 1
            if left[0] < 0:
                signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(count)


def test_what_a_killed_verify_left_of_the_manifest_is_no_reason_to_keep_an_artifact(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (out / ".manifest.json.partial-0123abcd").write_text("{")
    write_new(out, overwrite=True)
    assert snapshot(tmp_path) == {"out": None, "out/new": b"new"}
