"""A process that forks with an open model: a run there is refused in one line, nothing hangs or crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.artifacts import write_artifact

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

CODE = """
import os, sys
import reformer_export
from reformer_export.errors import ReformerExportError

model = reformer_export.load({out!r}, threads={threads})
model.run([[5, 6, 7]])
child = os.fork()
if child == 0:
    try:
        model.run([[5, 6, 7]])
    except ReformerExportError as error:
        print(error, flush=True)
    {then}
    sys.exit(7)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status), model.run([[5, 6, 7]])["logits"].shape)
"""

OPENING = """
import threading
from reformer_export.runtimes import ort
real, waits, ends = ort.open_session, threading.Event(), threading.Event()
def open_session(*values, **options):
    waits.set()
    ends.wait()
    return real(*values, **options)
ort.open_session = open_session
threading.Thread(target=reformer_export.load, args=({out!r},), daemon=True).start()
waits.wait()
child = os.fork()
"""

REFUSED = """
import os, sys
import reformer_export
from reformer_export.errors import ArtifactError
from reformer_export.runtimes import ort
def refuse(model, session, manifest):
    raise ArtifactError(model, "another signature", "the manifest's", "export it again")
ort.check_signature = refuse
try:
    reformer_export.load({out!r}, threads=4)
except ArtifactError as error:
    held = error  # and with it, in its traceback, the session
child = os.fork()
if child == 0:
    del held
    sys.exit(7)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status))
"""

RELEASED = """
import os, sys
from reformer_export.runtimes.forks import release_with
class Model:
    pass
parent, called, gone, last = os.getpid(), Model(), Model(), Model()
def release(name):
    print(name, "in the parent" if os.getpid() == parent else "in the child", flush=True)
call = release_with(called, lambda: release("called"))
release_with(gone, lambda: release("gone"))
release_with(last, lambda: release("at the end"))
child = os.fork()
if child:
    os.waitpid(child, 0)
call()
call()
del gone
"""


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    "then",
    [
        "",
        "model.close(); del model",
        "print(reformer_export.load({out!r}).run([[5, 6, 7]])['logits'].shape, flush=True)",
    ],
    ids=["exits", "closes", "loads again"],
)
def test_a_forked_child(tmp_path: Path, threads: int, then: str) -> None:
    out = str(write_artifact(tmp_path / "out"))
    code = CODE.format(out=out, threads=threads, then=then.format(out=out))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    refusal, *rest, last = ended.stdout.splitlines()
    assert "got a run in a process that was forked after the model was opened" in refusal
    assert "load it after the fork" in refusal
    assert rest == (["(1, 3, 258)"] if "load" in then else [])
    assert last == "child 7 (1, 3, 258)"


def test_a_fork_while_a_thread_opens_another(tmp_path: Path) -> None:
    out = str(write_artifact(tmp_path / "out"))
    code = CODE.replace("child = os.fork()\n", OPENING).format(out=out, threads=2, then="ends.set()")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "forked after the model was opened" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "child 7 (1, 3, 258)"
    assert ended.stderr == ""


def test_a_fork_after_a_model_was_refused(tmp_path: Path) -> None:
    code = REFUSED.format(out=str(write_artifact(tmp_path / "out")))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == ["child 7"], ended.stderr


def test_a_child_releases_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", RELEASED], capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == [
        "called in the parent",
        "gone in the parent",
        "at the end in the parent",
    ], ended.stderr
