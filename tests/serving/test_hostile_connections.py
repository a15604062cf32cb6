"""Connections by which a client, or a proxy before it, may mean harm: over real sockets."""

from __future__ import annotations

import json
import random
import re
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from reformer_export.serving.timed_protocol import MAX_PIPELINED, MAX_REFUSED
from tests.serving.servers import RunningServer, make_body, running_server
from tests.serving.test_faults import read_to_end
from tests.serving.test_timed_protocol import HOST, LIVE, infer, read_answer

CHUNKED = b"POST /v2/models/tiny/infer HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps(make_body([[5, 6]])).encode()
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


def ask(server: RunningServer, *parts: bytes) -> bytes:
    """All that comes, until the server closes the connection."""
    connection = server.connect()
    with suppress(ConnectionError):  # which the server may end before all is sent
        for part in parts:
            connection.sendall(part)
    return read_to_end(connection)


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d+) ", answers)


@pytest.mark.parametrize("name", [b"Host", b"Authorization", b"Inference-Header-Content-Length"])
def test_a_header_that_decides_something_comes_once(server: RunningServer, name: bytes) -> None:
    """A proxy may have looked at the other one."""
    values = {b"Host": [b"localhost", b"evil.example"]}.get(name, [b"0", b"5"])
    for first, second in (values, values[::-1]):
        others = b"" if name == b"Host" else HOST
        head = b"%s: %s\r\n%s: %s\r\nConnection: close\r\n" % (name, first, name.upper(), second)
        answer = ask(server, b"GET /v2/health/live HTTP/1.1\r\n" + others + head + b"\r\n")
        assert statuses(answer) == [b"400"]
        assert b"twice" in answer


def test_trailers_are_no_headers(server: RunningServer) -> None:
    trailers = b"0\r\nHost: evil.example\r\nInference-Header-Content-Length: 3\r\nAuthorization: x\r\n\r\n"
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(CHUNKED + CHUNK + trailers)
            head, body = read_answer(connection)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["outputs"][0]["shape"] == [1, 2, 258]


@pytest.mark.parametrize(
    ("begin", "unit"),
    [
        (CHUNK + b"0\r\n", b"X: %s\r\n" % (b"a" * 1000)),
        (CHUNK + b"0\r\nX: ", b"a" * 1000),
        (b"5;extension=", b"a" * 1000),
    ],
    ids=["trailers", "trailer", "extension"],
)
def test_what_is_no_body_ends(server: RunningServer, begin: bytes, unit: bytes) -> None:
    """Long before all of it was sent, or the client's time is over."""
    with server.connect() as connection:
        connection.sendall(CHUNKED + begin)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(unit * 100_000)


def test_a_request_for_another_protocol_is_answered_in_this_one(server: RunningServer) -> None:
    """As Java's client and curl send it; the connection ends, and what follows is nothing."""
    first = LIVE.replace(HOST, HOST + H2C)
    for parts in ((first,), (first + LIVE,), (first, b"\x00\x01"), (LIVE + first,)):
        answers = ask(server, *parts)
        assert statuses(answers) == [b"200"] * (2 if parts[0].startswith(LIVE) else 1)
        assert b"connection: close" in answers


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n" % len(LIVE), b"Transfer-Encoding: chunked\r\n"]
)
def test_a_body_is_never_the_next_request(server: RunningServer, framing: bytes) -> None:
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\n" + HOST + H2C + framing + b"\r\n"
    body = LIVE if b"Length" in framing else b"%x\r\n%s\r\n0\r\n\r\n" % (len(LIVE), LIVE)
    for parts in ((head + body,), (head, body)):
        answers = ask(server, *parts)
        assert statuses(answers) == [b"400"]
        assert b"without the header Upgrade" in answers


def test_only_so_many_requests_wait_for_the_first_answer(server: RunningServer) -> None:
    """Each takes memory from the moment it is parsed; those that were taken are answered."""
    answers = ask(server, LIVE * 5000)
    assert statuses(answers) == [b"200"] * (1 + MAX_PIPELINED)


def test_a_page_of_another_site_starts_nothing(server: RunningServer) -> None:
    body = json.dumps(make_body([[5]])).encode()
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"Sec-Fetch-Site": site, "Content-Type": "text/plain"}
        assert server.request("POST", "/v2/models/tiny/infer", body, headers)[0] == status
    assert server.request("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link


def test_more_connections_than_are_allowed_do_not_end_the_others(tiny_artifact: Path) -> None:
    """The first three are served whoever else comes; some more are told, the rest are closed."""
    with running_server([tiny_artifact], "--max-connections", "3") as server, ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in connections:
            connection.sendall(LIVE)
            assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")
        others = [stack.enter_context(server.connect()) for _ in range(MAX_REFUSED + 50)]
        answers = [ask_once(connection) for connection in others]
        assert [statuses(each) for each in answers[:MAX_REFUSED]] == [[b"503"]] * MAX_REFUSED
        assert b"at most 3" in answers[0]
        for connection in connections:
            connection.sendall(infer([5]))
            assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")
        connections[0].close()
        others[0].close()
        server.wait_for_event("request", 3 + MAX_REFUSED)
        connection = stack.enter_context(server.connect())
        connection.sendall(LIVE)
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def ask_once(connection: socket.socket) -> bytes:
    try:
        connection.sendall(LIVE)
    except OSError:
        return b""
    return read_to_end(connection)


def draw_request(draw: random.Random) -> tuple[bytes, bytes, bool]:
    """A request, its status, and whether the connection ends with it; without a status it breaks off, which
    is said where no other answer is due."""
    ids = [5] * draw.randint(1, 60)
    post = b"POST /v2/models/tiny/infer HTTP/1.1\r\n" + HOST
    chunked = b"Transfer-Encoding: chunked\r\n"
    coded = b"\r\n" + encode_chunks(draw, json.dumps(make_body([ids])).encode())
    large = 100_001 + draw.randint(0, 10**5)
    return draw.choice(
        [
            (LIVE, b"200", False),
            (infer(ids), b"200", False),
            (post + chunked + coded, b"200", False),
            (post + b"Content-Length: %d\r\n\r\n" % large + (LIVE * large)[:large], b"413", False),
            (LIVE.replace(b"/v2/health/live", b"/nothing"), b"404", False),
            (LIVE.replace(HOST, HOST + b"Host: localhost\r\n"), b"400", False),
            (LIVE.replace(HOST, HOST + b"Connection: close\r\n"), b"200", True),
            (LIVE.replace(b"1.1", b"1.0"), b"200", True),
            (LIVE.replace(HOST, HOST + H2C), b"200", True),
            (post + H2C + chunked + coded, b"400", True),
            (post + chunked + coded[:-2] + b"broken\r\n\r\n", b"", True),
        ]
    )


def encode_chunks(draw: random.Random, body: bytes) -> bytes:
    """The body in chunks of any size, with extensions and trailers."""
    parts, at = [], 0
    while at < len(body):
        chunk = body[at : at + draw.randint(1, 200)]
        parts.append(b"%X%s\r\n%s\r\n" % (len(chunk), draw.choice((b"", b";a=b", b";c")), chunk))
        at += len(chunk)
    trailer = draw.choice((b"", b"Host: evil\r\n", b"Authorization: a\r\nX: y\r\n"))
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


@pytest.mark.parametrize("seed", range(40))
def test_each_request_of_a_connection_has_its_own_answer(server: RunningServer, seed: int) -> None:
    """Requests of all kinds one behind the other, in pieces that end anywhere; what follows is nothing."""
    draw = random.Random(seed)
    data, expected = b"", []
    for _ in range(12):
        sent, status, is_last = draw_request(draw)
        data += sent
        expected += [status] if status else []
        if is_last:
            break
    else:
        data += LIVE.replace(HOST, HOST + b"Connection: close\r\n")
        expected.append(b"200")
    data += draw.choice((b"", LIVE, infer([5]), b"\x00\xff\r\n\r\n"))
    pieces, at = [], 0
    while at < len(data):
        size = draw.choice((1, 7, 100, 5000, 10**6)) if at < 2000 else 10**6
        pieces.append(data[at : at + size])
        at += size
    found = statuses(ask(server, *pieces))
    assert found == expected or (not status and found == [*expected, b"400"])
