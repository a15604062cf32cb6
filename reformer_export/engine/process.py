"""Starting the building process, listening to it, and what its death means."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from reformer_export import errors
from reformer_export.artifact.engine_record import EngineRuntime
from reformer_export.engine.progress import Progress
from reformer_export.engine.request import BuildRequest, BuildResult
from reformer_export.errors import EngineError, ReformerExportError

OnProgress = Callable[[Progress], None]
OnLog = Callable[[str], None]

WORKER: Final = "reformer_export.engine.worker"
MAX_LAST_WORDS: Final = 300
PLUGIN_PREFIX: Final = "[reformer] "
"""Begins the lines that the plugins write on standard error: TensorRT-RTX gives them no log."""

_LIBRARY_PACKAGES: Final[dict[EngineRuntime, tuple[str, str]]] = {
    "tensorrt": ("tensorrt_libs", "libnvinfer.so"),
    "tensorrt-rtx": ("tensorrt_rtx_libs", "libtensorrt_rtx.so"),
}
"""The package that holds a runtime's shared library, and the bare name under which it is looked for."""


def run_worker(request: BuildRequest, on_progress: OnProgress, on_log: OnLog) -> BuildResult:
    """Build in a process of its own; it is dead when this returns or raises, whatever the reason.

    Raises:
        EngineError: TensorRT refused, or the process died.
        ReformerExportError: what the process found at fault.
        OSError: the system refused it something.
    """
    with (
        tempfile.TemporaryDirectory(prefix="reformer-engine-") as folder,
        (Path(folder) / "output").open("w+b") as output,
    ):
        with _started(request, Path(folder), output) as (process, events):
            outcome, last_error = _listen(events, on_progress, on_log)
            status = process.wait()
        lines = _output_lines(output)
    if outcome is not None and outcome["event"] == "result":
        return msgspec.convert(outcome, BuildResult)
    for line in lines:
        on_log(line)
    if outcome is None:
        raise _death(status, last_error or (lines[-1] if lines else "no output"))
    raise _error_from_event(outcome, [line for line in lines if line.startswith(PLUGIN_PREFIX)])


@contextmanager
def _started(
    request: BuildRequest, folder: Path, output: BinaryIO
) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """The process and the stream of its events; killed at the end of the block if it still runs.

    It gets a session of its own, so that Ctrl-C reaches only the program, which then ends it; and an empty
    folder of its own to be in, because Python looks for modules there.
    """
    own_folder = folder / "cwd"
    own_folder.mkdir()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as events:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                cwd=own_folder,
                env=_environment(request.options.runtime, folder),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            assert process.stdin is not None
            try:
                process.stdin.write(request.to_json().encode())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it died already: its status and its last words tell why
            yield process, events
        finally:
            process.kill()
            process.wait()


def _environment(runtime: EngineRuntime, folder: Path) -> dict[str, str]:
    """The process's environment: it finds the modules that this one finds, and TensorRT's library by its
    bare name, which the parser loads when it meets a plugin and which the wheels do not hold."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
    environment["PYTHONUNBUFFERED"] = "1"
    links = _link_library(runtime, folder)
    if links is not None:
        before = os.environ.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{links}{os.pathsep}{before}" if before else str(links)
    return environment


def _link_library(runtime: EngineRuntime, folder: Path) -> Path | None:
    """A folder with a link to the runtime's library under its bare name; None where no wheel holds it."""
    package, name = _LIBRARY_PACKAGES[runtime]
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = sorted(Path(place).glob(f"{name}.*"))
        if found:
            links = folder / "links"
            links.mkdir()
            (links / name).symlink_to(found[0].resolve())
            return links
    return None


def _listen(
    events: BinaryIO, on_progress: OnProgress, on_log: OnLog
) -> tuple[dict[str, Any] | None, str | None]:
    """The last event, if it is a result or an error, and the last error in TensorRT's log."""
    outcome: dict[str, Any] | None = None
    last_error = None
    for line in events:
        try:
            values = json.loads(line)
        except ValueError:
            break  # a line cut off by the process's death
        kind = values.pop("event")
        if kind == "progress":
            on_progress(Progress(**values))
        elif kind == "log":
            last_error = values["text"] if values["severity"] == "error" else last_error
            on_log(f"TensorRT {values['severity']}: {values['text']}")
        else:
            outcome = {"event": kind, **values}
    return outcome, last_error


def _error_from_event(values: dict[str, Any], plugin_lines: list[str]) -> Exception:
    if values["type"] == OSError.__name__:
        return OSError(*values["parts"])
    parts = [part for part in values["parts"] if part]
    if plugin_lines:
        parts[-1] += f" (a plugin said: '{plugin_lines[0].removeprefix(PLUGIN_PREFIX)}')"
    error = getattr(errors, values["type"], EngineError)(*parts)
    assert isinstance(error, ReformerExportError)
    return error


def _death(status: int, last_words: str) -> EngineError:
    if status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    else:
        how = f"ended early with status {status}"
    fix = (
        "the system ends processes so when memory is short: free some, or build with smaller shapes"
        if status == -signal.SIGKILL
        else "see its whole log with `reformer-export --debug engine ...`, and please report it"
    )
    words = " ".join(last_words.split())[:MAX_LAST_WORDS]
    return EngineError("engine", f"a building process that {how} ('{words}')", "an engine", fix)


def _output_lines(output: BinaryIO) -> list[str]:
    """What the process wrote on its standard streams, empty lines left out."""
    output.seek(0)
    return [line for line in output.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
