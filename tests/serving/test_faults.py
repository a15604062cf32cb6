"""Everything that goes wrong: each with its status, and nothing lost that was accepted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtimes.artifacts import write_artifact
from tests.serving.servers import (
    RunningServer,
    expected_logits,
    logits_from_answer,
    make_body,
    running_server,
    wait_until,
)

RNG = np.random.default_rng(5)


def send_all(
    pool: ThreadPoolExecutor, server: RunningServer, rows: Sequence[Sequence[int]]
) -> list[Future[tuple[int, Any]]]:
    return [pool.submit(server.infer, "tiny", make_body([row])) for row in rows]


def make_rows(count: int) -> list[list[int]]:
    return [RNG.integers(2, 258, RNG.integers(1, 60)).tolist() for _ in range(count)]


def assert_right(rows: Sequence[Sequence[int]], answers: Sequence[Future[tuple[int, Any]]]) -> None:
    for row, answer in zip(rows, answers, strict=True):
        status, content = answer.result()
        assert status == 200, content
        np.testing.assert_array_equal(logits_from_answer(content), expected_logits([row]))


def count_accepted(server: RunningServer) -> float:
    return server.metric("reformer_waiting_requests") + server.metric("reformer_running_batches")


def test_a_killed_worker_loses_no_request(tiny_artifact: Path) -> None:
    rows = make_rows(12)
    with running_server([tiny_artifact]) as server, ThreadPoolExecutor(len(rows)) as pool:
        with server.worker_held() as pid:
            answers = send_all(pool, server, rows)
            wait_until(lambda: server.metric("reformer_waiting_requests") >= 6)
            os.kill(pid, signal.SIGKILL)
        assert_right(rows, answers)
        (died,) = server.log("worker_died")
        assert "SIGKILL" in died["reason"]
        assert died["requests"] >= 1
        assert server.metric("reformer_worker_restarts") == 1
        assert server.request("GET", "/v2/health/ready")[0] == 200
        for deaths in (2, 3):
            os.kill(server.worker_pid, signal.SIGKILL)
            server.wait_for_event("worker_died", deaths)
            if deaths == 3:
                status, answer = server.infer("tiny", make_body([[5]]))
                assert status == 503
                assert "as 3 did within 60 s" in answer["error"]
            server.wait_for_event("worker_ready", deaths)
        assert server.infer("tiny", make_body([[5]]))[0] == 200
        assert server.stop() == 0


def test_sigterm_finishes_what_was_accepted(tiny_artifact: Path) -> None:
    rows = make_rows(12)
    with running_server([tiny_artifact]) as server, ThreadPoolExecutor(len(rows)) as pool:
        with server.worker_held():
            answers = send_all(pool, server, rows)
            wait_until(lambda: server.metric("reformer_waiting_requests") >= 6)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_event("stopping")
            wait_until(lambda: refuses_connections(server))
        assert_right(rows, answers)
        assert server.process.wait(60) == 0
        assert server.log("stopped")[0]["cut_off"] == 0


def refuses_connections(server: RunningServer) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_is_not_finished_in_time_is_said_to_be_cut_off(tiny_artifact: Path) -> None:
    with (
        running_server([tiny_artifact], "--drain", "0.2") as server,
        ThreadPoolExecutor(1) as pool,
        server.worker_held(),
    ):
        (answer,) = send_all(pool, server, [[5]])
        wait_until(lambda: count_accepted(server) == 1)
        assert server.stop() == 1
        assert answer.result()[0] == 503
        assert server.log("stopped")[0]["cut_off"] == 1


def test_an_artifact_replaced_on_disk_is_said_and_never_mixed_up(tmp_path: Path) -> None:
    """The opened one goes on; a worker that has to start again does not take the other one's place."""
    out, other = tmp_path / "tiny", write_artifact(tmp_path / "other", vocab_size=20)
    write_artifact(out)
    with running_server([out]) as server:
        shutil.move(out, tmp_path / "old")
        shutil.move(other, out)
        server.wait_for_event("artifact_replaced")
        status, answer = server.infer("tiny", make_body([[257]]))
        assert status == 200
        np.testing.assert_array_equal(logits_from_answer(answer), expected_logits([[257]]))
        assert server.metric("reformer_artifact_replaced") == 1
        os.kill(server.worker_pid, signal.SIGKILL)
        server.wait_for_event("worker_refused")
        status, answer = server.infer("tiny", make_body([[5]]))
        assert status == 503
        assert "another artifact than was served" in answer["error"]
        assert server.request("GET", "/v2/health/live")[0] == 200
        status, _, content = server.request("GET", "/v2/health/ready")
        assert status == 503
        assert "another artifact" in json.loads(content)["error"]


def test_a_full_queue_a_late_answer_and_a_client_that_left(server: RunningServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        with server.worker_held():
            running = []
            for count, ids in enumerate([3, 4, 10], 1):  # two that run, and one that the worker keeps in hand
                running += send_all(pool, server, [[ids]])
                wait_until(lambda count=count: server.metric("reformer_running_batches") == count)

            body = json.dumps(make_body([[5]], parameters={"timeout": 100_000}))
            status, answer = server.infer("tiny", body.encode())
            assert (status, answer["error"][:18]) == (504, "answer: got none i")
            assert server.metric("reformer_waiting_requests") == 0

            gone = count_gone(server)
            leaving = server.connect()
            content = json.dumps(make_body([[6]])).encode()
            head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}"
            leaving.sendall(head.encode() + b"\r\n\r\n" + content)
            wait_until(lambda: server.metric("reformer_waiting_requests") == 1)
            leaving.close()
            wait_until(lambda: server.metric("reformer_waiting_requests") == 0)
            assert count_gone(server) == gone + 1

            waiting = send_all(pool, server, [[7], [8], [9]])
            wait_until(lambda: server.metric("reformer_waiting_requests") == 3)
            body = json.dumps(make_body([[5]])).encode()
            status, headers, content = server.request("POST", "/v2/models/tiny/infer", body)
            assert status == 429
            assert int(headers["retry-after"]) >= 1
            assert "fewer than 3" in json.loads(content)["error"]
        assert_right([[3], [4], [10], [7], [8], [9]], running + waiting)


def count_gone(server: RunningServer) -> int:
    return [line["status"] for line in server.log("request")].count(499)


def test_a_client_that_sends_slowly_is_let_go(server: RunningServer) -> None:
    """Slowloris: half a head, half a body, byte after byte."""
    parts = (
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: loc",
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
        b"",
    )
    connections = [server.connect() for _ in parts]
    for connection, part in zip(connections, parts, strict=True):
        connection.sendall(part)
    for connection in connections:
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_a_trickle_does_not_reset_the_clock(server: RunningServer) -> None:
    connection = server.connect()
    connection.sendall(b"GET /v2")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        answer = read_to_end(connection)
    finally:
        stop.set()
        thread.join()
    assert answer.startswith(b"HTTP/1.1 408 ")


def read_to_end(connection: Any) -> bytes:
    parts = []
    with connection:
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
    return b"".join(parts)


def test_a_client_that_does_not_read_is_let_go(server: RunningServer) -> None:
    """Its answer, larger than any buffer of the system, is not kept for ever."""
    rows, length = 150, 64
    tensor = {"name": "input_ids", "shape": [rows, length], "datatype": "INT32"}
    values = np.full((rows, length), 5, np.int32).tobytes()
    tensor["parameters"] = {"binary_data_size": len(values)}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(header) + len(values)}\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
    )
    connection = server.connect()
    connection.sendall(head.encode() + header + values)
    before = len(server.log("request"))
    wait_until(lambda: any(line["bytes"] > 9_000_000 for line in server.log("request")[before - 1 :]))
    threading.Event().wait(1.2)  # twice the server's patience: that nothing is read is the test
    assert len(read_to_end(connection)) < rows * length * 258 * 4


@pytest.mark.parametrize(
    ("length", "sent"), [("10000000", b"{" * 1000), ("10000000", b"[" * 10_000_000), ("9" * 30, b"")]
)
def test_a_body_of_ten_megabytes(server: RunningServer, length: str, sent: bytes) -> None:
    connection = server.connect()
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"

    def send() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(head.encode() + sent)

    thread = threading.Thread(target=send)
    thread.start()
    answer = connection.recv(65536)
    thread.join()
    connection.close()
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    assert answer.startswith(b"HTTP/1.1 413 ") or len(length) > 20


def test_a_body_that_grows_without_saying_so(server: RunningServer) -> None:
    connection = server.connect()
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 8)
    assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    connection.close()
