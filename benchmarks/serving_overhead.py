"""What a request costs beside its run: served and local runs of one input take turns.

Two clients ask, since a client's own cost is in its number: a thin one (a socket, one buffer that is kept),
whose number is the server's, and tritonclient, whose number is what its users see. Both give the logits as an
array, as `model.run` does. Every answer is compared, after the clock was stopped.
"""

from __future__ import annotations

import importlib.util
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_load import BUFFER_BYTES, HEAD_BYTES, Question, ServerProcess, find_body
from reformer_export.runtimes import Runtime

LENGTH: Final = 512
"""Tokens of the request."""
THIN: Final = "a thin client"
WARM_UP: Final = 5
"""Turns that are not counted."""


@dataclass
class Overhead:
    """Seconds of a client's answers, and of the runs here before each of them."""

    served: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    @property
    def added_ms(self) -> float:
        """What serving adds, the median of pairs."""
        pairs = zip(self.served, self.alone, strict=True)
        return 1e3 * statistics.median(served - alone for served, alone in pairs)


class ThinClient:
    """A connection and a buffer, both kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def ask(self, question: Question, vocab_size: int) -> NDArray[np.float32]:
        """The logits, [1, length, vocabulary], which the next answer overwrites."""
        self._socket.sendall(question.request)
        filled, end, begin = 0, 1, 0
        while filled < end:
            filled += self._socket.recv_into(self._buffer[filled:])
            if not begin:
                begin, end = find_body(bytes(self._buffer[: min(filled, HEAD_BYTES)]))
        return np.frombuffer(self._buffer[begin:end], np.float32).reshape(1, question.length, vocab_size)

    def close(self) -> None:
        self._socket.close()


def measure_overhead(
    server: ServerProcess, model: Runtime, question: Question, turns: int
) -> dict[str, Overhead]:
    """By client; in each turn a run here and a request by each."""
    thin = ThinClient(server.port)
    ids = np.frombuffer(question.request[-8 * question.length :], np.int64).reshape(1, -1)
    clients = {THIN: lambda: thin.ask(question, model.spec.vocab_size)}
    if importlib.util.find_spec("tritonclient") is not None:
        clients["tritonclient"] = _make_triton_action(server, ids)
    found = {name: Overhead() for name in clients}
    for turn in range(turns + WARM_UP):
        for name, ask in clients.items():
            alone = _time_logits(lambda: model.run(ids)["logits"], question)
            served = _time_logits(ask, question)
            if turn >= WARM_UP:
                found[name].alone.append(alone)
                found[name].served.append(served)
    thin.close()
    return found


def _time_logits(act: Callable[[], Any], question: Question) -> float:
    """Seconds until `act` gives the right logits."""
    begun = time.perf_counter()
    logits = act()
    seconds = time.perf_counter() - begun
    assert logits.tobytes() == question.logits
    return seconds


def _make_triton_action(server: ServerProcess, ids: NDArray[np.int64]) -> Callable[[], Any]:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")

    def ask() -> Any:
        tensor = triton.InferInput("input_ids", list(ids.shape), "INT64")
        tensor.set_data_from_numpy(ids)
        return client.infer(server.name, [tensor]).as_numpy("logits")

    return ask
