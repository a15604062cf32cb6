"""The process that builds: TensorRT can end the process it runs in, and this one is there for that.

`python -m reformer_export.engine.worker FD` reads a request on standard input and writes events, one JSON
object a line, to the file descriptor FD: {"event": "progress" | "log" | "result" | "error", ...}.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, TextIO

from reformer_export.engine.config import build_plan
from reformer_export.engine.gpus import choose_compute_capabilities, find_compute_capability
from reformer_export.engine.network import parse_network
from reformer_export.engine.progress import PhaseTree, Progress
from reformer_export.engine.request import BuildRequest, BuildResult, request_from_json
from reformer_export.errors import EngineError, ReformerExportError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.tensorrt import describe_tensorrt_library
from reformer_export.runtimes.tensorrt.log import make_log
from reformer_export.runtimes.tensorrt.packages import import_tensorrt
from reformer_export.runtimes.tensorrt.plugins import load_plugins

PROGRESS_SECONDS: Final = 0.1
"""Between two progress events: TensorRT reports thousands of steps a second."""

_PR_SET_PDEATHSIG: Final = 1


class Events:
    """The way back to the program. Any thread may send."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._next_progress = 0.0

    def send(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def send_error(self, error: ReformerExportError) -> None:
        """Send the parts of its sentence."""
        parts = [error.what, error.got, error.expected, error.fix]
        self.send("error", type=type(error).__name__, parts=parts)

    def send_progress(self, progress: Progress) -> None:
        """Send it, unless the last one is too young."""
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self.send("progress", **vars(progress))


def make_build_log(trt: Any, events: Events) -> Any:
    """An ILogger that sends TensorRT's messages as events, and whose `cause()` is its last error."""
    errors = ["no reason in its log"]

    def send(severity: str, text: str) -> None:
        if severity == "error":  # internal ones are about TensorRT's own log, too
            errors.append(text)
        events.send("log", severity=severity.removeprefix("internal "), text=text)

    log = make_log(trt, send)
    log.cause = lambda: errors[-1]
    return log


def make_monitor(trt: Any, events: Events) -> Any:
    """An IProgressMonitor that sends how far the build is."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tree = PhaseTree()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            events.send_progress(self.tree.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            events.send_progress(self.tree.complete_step(phase_name, step))
            return True

        def phase_finish(self, phase_name: str) -> None:
            events.send_progress(self.tree.finish(phase_name))

    return Monitor()


def run_build(request: BuildRequest, events: Events) -> BuildResult:
    """Build the engine into the file `request.engine`."""
    trt = import_tensorrt(request.options.runtime)
    compute_capabilities = choose_compute_capabilities(trt, request.options)
    log = make_build_log(trt, events)
    load_plugins(trt, request.plugin, request.operators, log.cause)
    events.send_progress(Progress(0.0, f"Parsing {Path(request.model).name}", 0, 1))
    parsed = parse_network(trt, log, request)
    plan = build_plan(trt, log, make_monitor(trt, events), request, parsed, compute_capabilities)
    Path(request.engine).write_bytes(plan)
    notes = _kernel_notes(request, compute_capabilities)
    if request.layers is not None:
        notes += _report_layers(trt, log, request, plan, compute_capabilities)
    return BuildResult(trt.__version__, compute_capabilities, parsed.plugin_layers, notes)


def _kernel_notes(request: BuildRequest, compute_capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """What the runtime will say where the engine is for a GPU that the plugin library has no code for."""
    library = describe_tensorrt_library(Path(request.plugin))
    codes = {text: library.code_for(ComputeCapability.parse(text)) for text in compute_capabilities}
    compiles = "there the driver compiles its newest kernels, which takes time at the first run"
    notes = []
    for code, missing, consequence in (
        (None, "kernels", "the engine will not run there with it"),
        ("PTX", "machine code", compiles),
    ):
        texts = [text for text in codes if codes[text] == code]
        if texts:
            where = f"compute capability {', '.join(texts)}"
            notes.append(f"the plugin library {library} has no {missing} for {where}: {consequence}")
    return tuple(notes)


def _report_layers(
    trt: Any, log: Any, request: BuildRequest, plan: memoryview, compute_capabilities: tuple[str, ...]
) -> tuple[str, ...]:
    """Write the inspector's report to `request.layers`, or say why it cannot be."""
    gpu = find_compute_capability()
    if str(gpu) not in compute_capabilities:
        here = f"this one has {gpu}" if gpu else "this one has none"
        reason = f"the engine must be loaded on a GPU it is for, and {here}"
    else:
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)
            Path(str(request.layers)).write_text(text, encoding="utf-8")
            return ()
        reason = log.cause()
    return (f"no layer report: {reason}",)


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the program ends, even by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run the request on standard input; the exit status says nothing, the last event does."""
    _die_with_parent()
    request = request_from_json(sys.stdin.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as stream:
        events = Events(stream)
        try:
            events.send("result", **vars(run_build(request, events)))
        except ReformerExportError as error:
            events.send_error(error)
        except MemoryError:
            room = "room for the model and the engine"
            events.send_error(EngineError("engine", "no more memory", room, "free some"))
        except OSError as error:
            events.send("error", type=OSError.__name__, parts=[error.errno, str(error)])
    os._exit(0)  # TensorRT's objects are not freed in an order that a dying interpreter keeps


if __name__ == "__main__":
    main()
