"""`reformer-export serve` as a command: what it refuses before it listens, what it says when it does."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.serving.servers import make_body, running_server


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (tmp_path / "keys").write_text("short\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = {
            ("none",): "which does not exist",
            (out, out): "two artifacts named out",
            (out, "--port", "99999"): "--port",
            (out, "--port", port): f"127.0.0.1:{port}",
            (out, "--host", "no.such.host.invalid", "--port", 0): "--host",
            (out, "--timeout", "0"): "--timeout",
            (out, "--api-key-file", tmp_path / "keys"): "--api-key-file",
            (out, "--api-key-file", tmp_path / "none"): "--api-key-file",
            (f"{'x' * 200}={out}",): "NAME=",
        }
        for arguments, words in refused.items():
            outcome = run_program("serve", *arguments)
            assert outcome.status == 2, arguments
            assert words in outcome.error


def test_a_damaged_artifact_is_told_by_its_worker(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (out / "model.onnx").write_bytes(b"damaged")
    outcome = run_program("serve", out, "--port", 0)
    assert outcome.status == 2
    assert "SHA-256" in outcome.error
    shutil.rmtree(out)


def test_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "starlette" else find(name, *rest)
    )
    outcome = run_program("serve", write_artifact(tmp_path / "out"))
    assert outcome.status == 2
    assert "pip install 'reformer-export[serve]'" in outcome.error


def test_what_is_logged_and_ctrl_c(tmp_path: Path) -> None:
    """A line a request, with what users sent only where that was wished."""
    out = write_artifact(tmp_path / "out")
    for options, shown in (((), False), (("--log-inputs",), True)):
        with running_server([f"a={out}"], *options) as server:
            body = make_body([[201, 202, 203]])
            assert server.infer("a", body, {"X-Request-Id": "mine-1"})[0] == 200
            assert server.infer("secret-name", body, {"X-Request-Id": "a b"})[0] == 404
            assert server.stop(signal.SIGINT) == 0
            good, bad = server.log("request")
            assert (
                good.items()
                >= {
                    "id": "mine-1",
                    "method": "POST",
                    "route": "/v2/models/{model}/infer",
                    "status": 200,
                    "model": "a",
                    "tokens": 3,
                    "batch": 1,
                }.items()
            )
            assert good["run_ms"] > 0
            assert good["ms"] >= good["queue_ms"] >= 0
            assert ("inputs" in good) == shown
            assert bad["id"] != "a b"
            assert "secret-name" not in str(bad)
            assert bad["error"] == "NotFoundError: model"
            assert [line["event"] for line in server.log()][:2] == ["model_ready", "listening"]
            assert server.log()[-1]["event"] == "stopped"
