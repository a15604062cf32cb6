"""A server in a process of its own, clients that compare every answer, and what the processes hold."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from reformer_export.runtimes import Runtime

LENGTHS: Final = (16, 1024)
"""Tokens of the shortest and the longest request; every length between is as likely."""
BUFFER_BYTES: Final = 2**22
"""More than the largest answer."""
HEAD_BYTES: Final = 4096
_LENGTHS: Final = re.compile(rb"\r\n(inference-header-)?content-length: (\d+)")


@dataclass(frozen=True)
class Question:
    """A request as it goes over the wire, its `length` in tokens, and the bytes of the right logits."""

    length: int
    request: bytes
    logits: bytes


@dataclass
class Load:
    """What clients saw: seconds of each answer, its length in tokens, and the answers that were wrong."""

    seconds: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    wrong: int = 0
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall

    def quantile(self, share: float) -> float:
        """Seconds."""
        return float(np.quantile(self.seconds, share))

    def __iadd__(self, other: Load) -> Load:
        self.seconds += other.seconds
        self.lengths += other.lengths
        self.wrong += other.wrong
        self.wall += other.wall
        return self


@dataclass(frozen=True)
class ServerProcess:
    """A server that listens at `port`; `pids`: of the front process and of its worker."""

    name: str
    port: int
    pids: tuple[int, int]

    def count_held_bytes(self) -> tuple[int, int]:
        """Resident memory of both."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids]
        size = os.sysconf("SC_PAGE_SIZE")
        return pages[0] * size, pages[1] * size


@contextmanager
def run_server(artifact: Path, *options: str) -> Iterator[ServerProcess]:
    """`reformer-export serve` on a free port, ended with the block."""
    command = [sys.executable, "-m", "reformer_export", "serve", f"model={artifact}", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    log = artifact.parent / f"{artifact.name}-serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--provider", "cpu", *options], stdout=stream, stderr=subprocess.PIPE, env=environment
        )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"Serving"):
                break
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        worker = next(line["pid"] for line in lines if line["event"] == "model_ready")
        port = next(int(line["url"].rpartition(":")[2]) for line in lines if line["event"] == "listening")
        yield ServerProcess("model", port, (process.pid, worker))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def make_question(model: Runtime, length: int, rng: np.random.Generator) -> Question:
    """Random tokens and what the model alone makes of them."""
    ids = rng.integers(2, model.spec.vocab_size, (1, length))
    tensor = {"name": "input_ids", "shape": [1, length], "datatype": "INT64"}
    tensor["parameters"] = {"binary_data_size": ids.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        "POST /v2/models/model/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(header) + ids.nbytes}\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
    )
    return Question(length, head.encode() + header + ids.tobytes(), model.run(ids)["logits"].tobytes())


def make_questions(model: Runtime, count: int, seed: int = 0) -> list[Question]:
    """Of all lengths alike."""
    rng = np.random.default_rng(seed)
    return [make_question(model, int(length), rng) for length in rng.integers(*LENGTHS, count, endpoint=True)]


class Client:
    """A connection that is kept. Clients share the server's cores, and should cost it little: the buffers of
    answers that come right now are everybody's, few, and stay in the caches."""

    _idle_buffers: ClassVar[list[bytearray]] = []

    def __init__(self, own: socket.socket) -> None:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = own
        self._head = bytearray(HEAD_BYTES)

    @classmethod
    async def connect(cls, port: int) -> Client:
        own = socket.socket()
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
        return cls(own)

    async def ask(self, question: Question) -> bool:
        """Whether the answer is right, to the last bit."""
        await asyncio.get_running_loop().sock_sendall(self._socket, question.request)
        filled = await self._receive(memoryview(self._head))
        buffer = self._idle_buffers.pop() if self._idle_buffers else bytearray(BUFFER_BYTES)
        buffer[:filled] = self._head[:filled]
        begin, end = find_body(self._head[:filled])
        while filled < end:
            filled += await self._receive(memoryview(buffer)[filled:])
            if not begin:
                begin, end = find_body(buffer[: min(filled, HEAD_BYTES)])
        is_whole = filled == end and end - begin == len(question.logits)
        is_right = is_whole and buffer.startswith(question.logits, begin)
        self._idle_buffers.append(buffer)
        return is_right

    async def _receive(self, room: memoryview) -> int:
        got = await asyncio.get_running_loop().sock_recv_into(self._socket, room)
        if got == 0:
            raise ConnectionError("the server closed the connection")
        return got

    def close(self) -> None:
        self._socket.close()


def find_body(head: bytes | bytearray) -> tuple[int, int]:
    """Where an answer's tensor begins and the answer ends; 0 and 1 while the head is not whole."""
    size = head.find(b"\r\n\r\n") + 4
    if size < 4:
        return 0, 1
    lengths = {bool(found[1]): int(found[2]) for found in _LENGTHS.finditer(head[:size])}
    return size + lengths.get(True, 0), size + lengths[False]


async def run_closed(
    port: int,
    clients: int,
    questions: Sequence[Question],
    seconds: float = float("inf"),
    requests: int = 2**62,
    on_answer: Callable[[int], None] = lambda count: None,
    load: Load | None = None,
) -> Load:
    """Clients that ask again as soon as they are answered, until so many requests or seconds are over; what
    comes of it is put into `load` as it comes."""
    load, chooser = Load() if load is None else load, random.Random(clients)
    begun = time.perf_counter()
    asked = 0

    async def run_client() -> None:
        nonlocal asked
        client = await Client.connect(port)
        while asked < requests and time.perf_counter() - begun < seconds:
            asked += 1
            await _ask(client, chooser.choice(questions), load, time.perf_counter())
            on_answer(len(load.seconds))
        client.close()

    await asyncio.gather(*(run_client() for _ in range(clients)))
    load.wall = time.perf_counter() - begun
    return load


async def run_pausing(
    port: int, clients: int, questions: Sequence[Question], rate: float, seconds: float, seed: int
) -> Load:
    """Clients that rest when they are answered, and ask again: together `rate` times a second. Pauses are
    exponential, and on average what is left of clients / rate seconds when an answer takes as long as answers
    took until then."""
    load, chooser = Load(), random.Random(seed)
    begun = time.perf_counter()

    async def run_client() -> None:
        client = await Client.connect(port)
        while True:
            answering = statistics.fmean(load.seconds) if load.seconds else 0.0
            pause = chooser.expovariate(1.0) * max(0.0, clients / rate - answering)
            if time.perf_counter() + pause - begun >= seconds:
                break
            await asyncio.sleep(pause)
            await _ask(client, chooser.choice(questions), load, time.perf_counter())
        client.close()

    await asyncio.gather(*(run_client() for _ in range(clients)))
    load.wall = time.perf_counter() - begun
    return load


async def run_paced(
    port: int, clients: int, questions: Sequence[Question], rate: float, seconds: float, seed: int
) -> Load:
    """Clients that together ask `rate` times a second, each at moments of its own that know of no answer
    (exponential distances); a request that is due while its client still waits is late, and its lateness is
    counted as waiting."""
    load, chooser = Load(), random.Random(seed)
    begun = time.perf_counter()

    async def run_client() -> None:
        client = await Client.connect(port)
        due = begun
        while (due := due + chooser.expovariate(rate / clients)) - begun < seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await _ask(client, chooser.choice(questions), load, due)
        client.close()

    await asyncio.gather(*(run_client() for _ in range(clients)))
    load.wall = time.perf_counter() - begun
    return load


async def _ask(client: Client, question: Question, load: Load, begun: float) -> None:
    is_right = await client.ask(question)
    load.seconds.append(time.perf_counter() - begun)
    load.lengths.append(question.length)
    load.wrong += not is_right
