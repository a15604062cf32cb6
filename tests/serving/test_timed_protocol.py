"""Connections that do not keep to one request after the other, over a real socket."""

from __future__ import annotations

import json
import socket

import pytest

from reformer_export.serving.timed_protocol import MAX_HEAD_BYTES
from tests.serving.servers import RunningServer, make_body

HOST = b"Host: localhost\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\n" + HOST + b"\r\n"


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer, byte by byte: what follows stays."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        assert part, head
        head += part
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head, body


def infer(ids: list[int], version: bytes = b"1.1", more: bytes = b"") -> bytes:
    body = json.dumps(make_body([ids])).encode()
    head = b"POST /v2/models/tiny/infer HTTP/%s\r\n%s%sContent-Length: %d\r\n\r\n"
    return head % (version, HOST, more, len(body)) + body


def test_requests_that_do_not_wait_for_answers_are_answered_in_order(server: RunningServer) -> None:
    """One after the other in one piece, then in pieces that end anywhere."""
    sent = [infer([5] * length) for length in (7, 3, 60, 1)]
    with server.connect() as connection:
        for size in (10**6, 100):
            data = b"".join(sent)
            for at in range(0, len(data), size):
                connection.sendall(data[at : at + size])
            for length in (7, 3, 60, 1):
                head, body = read_answer(connection)
                assert head.startswith(b"HTTP/1.1 200 ")
                assert json.loads(body)["outputs"][0]["shape"] == [1, length, 258]


def test_a_refused_body_is_passed_over_and_the_connection_goes_on(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /v2/models/tiny/infer HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n"
        )
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"x" * 200_000 + LIVE)
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def test_an_older_client_and_one_that_asks_before_it_sends(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(infer([5], b"1.0"))
        assert b"\r\nconnection: close\r\n" in read_answer(connection)[0]
        assert connection.recv(1) == b""
    with server.connect() as connection:
        request = infer([5], more=b"Expect: 100-continue\r\n")
        at = request.index(b"\r\n\r\n") + 4
        connection.sendall(request[:at])
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(request[at:])
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nX: " + b"a" * (4 * MAX_HEAD_BYTES), b"431"),
        (b"GET /v2 HTTP/1.1\r\n" + b"X: a\r\n" * MAX_HEAD_BYTES, b"431"),
        (b"GET /" + b"a" * (4 * MAX_HEAD_BYTES), b"431"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nbroken header\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT localhost:80 HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
def test_a_head_that_is_none_or_never_ends(server: RunningServer, sent: bytes, status: bytes) -> None:
    with server.connect() as connection:
        try:
            connection.sendall(sent)
            head, body = read_answer(connection)
        except (ConnectionResetError, BrokenPipeError):  # it was closed while this was still being sent
            assert status == b"431"
        else:
            assert head.startswith(b"HTTP/1.1 " + status)
            assert set(json.loads(body)) == {"error"}
    assert server.request("GET", "/v2/health/live")[0] == 200


def test_what_follows_a_request_and_is_none_ends_the_connection_behind_its_answer(
    server: RunningServer,
) -> None:
    with server.connect() as connection:
        connection.sendall(infer([5, 6]) + infer([7]) + b"\x00\x01\x02 nonsense\r\n\r\n" * 3)
        for length in (2, 1):
            head, body = read_answer(connection)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["outputs"][0]["shape"] == [1, length, 258]
        assert connection.recv(1) == b""
    assert server.request("GET", "/v2/health/live")[0] == 200
