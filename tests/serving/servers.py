"""A server in a process of its own, as users start it, and requests to it without a client library."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtimes.artifacts import next_token_table

SECONDS = 60
"""More than anything here takes; a test that needs them is broken."""


class RunningServer:
    """A server that listens; `log` gives its lines so far."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path
        url = self.wait_for_event("listening")["url"]
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))

    @property
    def url(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        text = self._log_path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if event in (None, line["event"])]

    def wait_for_event(self, event: str, count: int = 1) -> dict[str, Any]:
        """The last of the first `count` lines of that kind."""
        wait_until(lambda: len(self.log(event)) >= count or self.process.poll() is not None)
        return self.log(event)[count - 1]

    @property
    def worker_pid(self) -> int:
        """Of the only model's worker, the one that is there now."""
        ready = [line for line in self.log() if line["event"] in ("model_ready", "worker_ready")]
        return int(ready[-1]["pid"])

    @contextmanager
    def worker_held(self) -> Iterator[int]:
        """The worker stands still during the block; its process id."""
        pid = self.worker_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (small letters) and body of the answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=SECONDS)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def infer(self, model: str, values: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer to a body that is JSON."""
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        status, _, content = self.request("POST", f"/v2/models/{model}/infer", body, headers)
        return status, json.loads(content)

    def metric(self, name: str) -> float:
        """The sum of a metric's values."""
        text = self.request("GET", "/metrics")[2].decode()
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name)]
        return sum(map(float, values))

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address, SECONDS)
        connection.settimeout(SECONDS)
        return connection

    def stop(self, name: int = signal.SIGTERM) -> int:
        """The exit status after a signal."""
        self.process.send_signal(name)
        return self.process.wait(SECONDS)


@contextmanager
def running_server(artifacts: Sequence[Path | str], *options: str) -> Iterator[RunningServer]:
    """`reformer-export serve` on a free port, with two runs at once; ended, whatever happens, when the block
    ends."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reformer_export", "serve", *map(str, artifacts), "--port", "0"]
    command += ["--provider", "cpu", "--concurrency", "2"]
    with tempfile.TemporaryDirectory() as folder:
        log_path, error_path = Path(folder) / "log", Path(folder) / "errors"
        with log_path.open("wb") as log, error_path.open("wb") as errors:
            process = subprocess.Popen([*command, *options], stdout=log, stderr=errors, env=environment)
        try:
            yield RunningServer(process, log_path)
        except IndexError as error:
            raise AssertionError(error_path.read_text(encoding="utf-8")) from error
        finally:
            process.kill()
            process.wait()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def make_body(ids: Any, **more: Any) -> dict[str, Any]:
    """A request for the outputs of token ids [rows, length], in JSON."""
    rows = np.asarray(ids)
    shape = list(rows.shape)
    tensor = {"name": "input_ids", "shape": shape, "datatype": "INT64", "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **more}


def expected_logits(ids: Any, vocab_size: int = 258) -> NDArray[np.float32]:
    """Of the tiny language model (tests/runtimes/artifacts.py): a row of its table for each token."""
    return next_token_table(vocab_size)[np.asarray(ids)]


def logits_from_answer(answer: dict[str, Any]) -> NDArray[np.float32]:
    (output,) = answer["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])
