"""Frames between the processes, however they are cut, and bytes that are no frame."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.errors import ArtifactError, InputError, ReformerExportError
from reformer_export.serving.channel import Channel
from reformer_export.serving.connection import WorkerConnection
from reformer_export.serving.messages import (
    MAX_HEADER_BYTES,
    PREFIX,
    Begun,
    BrokenFrameError,
    Cancel,
    Failed,
    Failure,
    Generate,
    Infer,
    Piece,
    Pieces,
    Ready,
    Result,
    Start,
    Tensor,
    ToFront,
    arrays_from_payload,
    decode_for_front,
    decode_for_worker,
    encode_frame,
    error_from_parts,
)

TO_WORKER = (
    Start("/a", {"model.onnx": "0"}, {"threads": 1}, None, 4, 10, 99),
    Infer(3, [Tensor("input_ids", (2, 5), "int64")], 4),
    Generate(4, {"seed": 1}, False),
    Cancel(2**40),
)
PARTS = ("what", "got", "expected", "fix")
TO_FRONT: tuple[ToFront, ...] = (
    Ready("CPU", ["note"], 64, True, 2, False),
    Failed("ArtifactError", PARTS),
    Result(3, [Tensor("logits", (2, 5, 3)), Tensor("n", (), "bool")], 1.5),
    Begun(4, 7, "text"),
    Pieces([Piece(4, [1, 2], "a"), Piece(5, [], "", "eos_token")]),
    Failure(5, "InputError", PARTS),
)


@pytest.mark.parametrize("message", TO_WORKER)
def test_to_the_worker_and_back(message: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        payload = np.arange(70_000, dtype=np.int64)
        frame = encode_frame(message, payload.nbytes)
        sending = threading.Thread(target=ours.sendall, args=(frame + payload.tobytes(),))
        sending.start()
        got = Channel(theirs).receive()
        sending.join()
        assert got is not None
        assert got[0] == message
        np.testing.assert_array_equal(np.frombuffer(got[1], np.int64), payload)


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def feed(connection: WorkerConnection, data: bytes, sizes: list[int]) -> None:
    """Give the bytes as a socket would, in pieces of at most the next of `sizes`."""
    at, turn = 0, 0
    while at < len(data):
        buffer = connection.get_buffer(-1)
        count = min(len(buffer), len(data) - at, sizes[turn % len(sizes)])
        buffer[:count] = data[at : at + count]
        connection.buffer_updated(count)
        at, turn = at + count, turn + 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TO_FRONT), st.binary(max_size=300)), max_size=6),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
)
def test_to_the_front_however_it_is_cut(sent: list[tuple[ToFront, bytes]], sizes: list[int]) -> None:
    got: list[tuple[ToFront, bytes]] = []
    connection = WorkerConnection(lambda m, p: got.append((m, bytes(p))), lambda error: None, 1000)
    connection.connection_made(Transport())
    data = b"".join(encode_frame(message, len(payload)) + payload for message, payload in sent)
    feed(connection, data, sizes)
    assert got == sent


@pytest.mark.parametrize(
    "data",
    [
        PREFIX.pack(MAX_HEADER_BYTES + 1, 0),
        PREFIX.pack(10, 1001),
        PREFIX.pack(0, 5),
        PREFIX.pack(3, 0) + b"abc",
        PREFIX.pack(1, 0) + b"\xc1",
        encode_frame(Cancel(1)),  # which a worker does not say
    ],
)
def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    lost: list[Exception | None] = []
    connection = WorkerConnection(lambda message, payload: None, lost.append, 1000)
    transport = Transport()
    connection.connection_made(transport)
    feed(connection, data, [1000])
    assert transport.aborted
    connection.connection_lost(None)
    assert isinstance(lost[0], BrokenFrameError)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_header_is_a_message_or_refused(header: bytes) -> None:
    for decode in (decode_for_front, decode_for_worker):
        try:
            decode(header)
        except BrokenFrameError:
            continue


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (7,)])
def test_a_payload_that_is_not_its_tensors(shape: tuple[int, ...]) -> None:
    right = 4 * int(np.prod(shape))
    tensors = [Tensor("logits", shape)]
    assert arrays_from_payload(bytes(right), tensors)["logits"].shape == shape
    with pytest.raises(BrokenFrameError):
        arrays_from_payload(bytes(right + 4), tensors)
    with pytest.raises((BrokenFrameError, ValueError)):
        arrays_from_payload(bytes(right - 4), tensors)
    with pytest.raises(BrokenFrameError):
        arrays_from_payload(bytes(right), [Tensor("logits", shape, "object")])


def test_an_error_keeps_its_class_and_no_other_class_is_made() -> None:
    error = error_from_parts("InputError", PARTS)
    assert isinstance(error, InputError)
    assert str(error) == str(InputError(*PARTS))
    assert type(error_from_parts("ArtifactError", PARTS)) is ArtifactError
    for name in ("one_line", "SystemExit", "reprlib", ""):
        assert type(error_from_parts(name, PARTS)) is ReformerExportError
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Cancel(5)))["type"] == "cancel"
