"""Texts through `reformer-export serve`, one at a time and many at once: tokens a second.

    python -m benchmarks.bench_serving_generation [--streams 1,8,32] [--tokens 400] [--turns 5]

The shipped model, and streams of /v1/completions over sockets, each with a prompt and a seed of its own; the
numbers of streams take turns. Each text is compared with what the first turn gave for its seed, whatever runs
beside it. The clients are one process that keeps bytes and reads them afterwards, but it shares the cores
that the model needs. Processor time is that of the server's two processes, by the system's account.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import click

from benchmarks.models import SHIPPED, prepare_model
from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from benchmarks.serving_load import ServerProcess, run_server

PROMPT: Final = "In the beginning of chapter {} God"
MIN_GAIN: Final = 4.0
"""Tokens a second of the most streams over those of one."""
DONE: Final = b"data: [DONE]"


class _Client(asyncio.Protocol):
    """Sends a request and keeps what comes; `closed` when the server has sent all."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._begun = time.perf_counter()
        self.parts: list[bytes] = []
        self.first_seconds = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.first_seconds = self.first_seconds or time.perf_counter() - self._begun
        self.parts.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)

    def read(self) -> tuple[str, int]:
        """The text and its tokens."""
        answer = b"".join(self.parts)
        if DONE not in answer:
            raise click.ClickException(f"a text that did not end: {answer[-300:]!r}")
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        return text, events[-1]["usage"]["completion_tokens"]


@dataclass
class Streams:
    """What a number of streams at once gave, a value a turn; `first_seconds` of every stream."""

    rates: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    front_us: list[float] = field(default_factory=list)
    worker_us: list[float] = field(default_factory=list)


def write_request(index: int, tokens: int) -> bytes:
    asked = {"prompt": PROMPT.format(index), "max_tokens": tokens, "temperature": 0.8, "seed": index}
    body = json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"Host: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body


async def stream_texts(port: int, count: int, tokens: int) -> tuple[float, list[_Client]]:
    """Seconds that `count` texts took at once, and their clients."""
    loop = asyncio.get_running_loop()
    requests = [write_request(index, tokens) for index in range(count)]
    begun = time.perf_counter()
    made = [loop.create_connection(partial(_Client, each), "127.0.0.1", port) for each in requests]
    clients = [client for _, client in await asyncio.gather(*made)]
    await asyncio.gather(*(client.closed for client in clients))
    return time.perf_counter() - begun, clients


def count_processor_seconds(pid: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: ServerProcess, counts: Sequence[int], tokens: int, turns: int) -> dict[int, Streams]:
    """Streams by their number, all texts compared."""
    asyncio.run(stream_texts(server.port, max(counts), 20))
    found = {count: Streams() for count in counts}
    texts: dict[int, str] = {}
    for _ in range(turns):
        for count, streams in found.items():
            before = [count_processor_seconds(pid) for pid in server.pids]
            seconds, clients = asyncio.run(stream_texts(server.port, count, tokens))
            used = [count_processor_seconds(pid) for pid in server.pids]
            whole = 0
            for index, client in enumerate(clients):
                text, number = client.read()
                whole += number
                if texts.setdefault(index, text) != text:
                    raise click.ClickException(f"text {index} of {count} differs from the first turn's")
            front, worker = (1e6 * (b - a) / whole for a, b in zip(before, used, strict=True))
            streams.rates.append(whole / seconds)
            streams.first_seconds += [client.first_seconds for client in clients]
            streams.front_us.append(front)
            streams.worker_us.append(worker)
    return found


def describe_streams(count: int, streams: Streams) -> Row:
    """A line of the table."""
    return {
        "streams": str(count),
        "tokens/s": f"{statistics.median(streams.rates):,.0f}",
        "least": f"{min(streams.rates):,.0f}",
        "most": f"{max(streams.rates):,.0f}",
        "first text, ms": f"{1e3 * statistics.median(streams.first_seconds):.0f}",
        "worker, us/token": f"{statistics.median(streams.worker_us):.0f}",
        "front, us/token": f"{statistics.median(streams.front_us):.0f}",
    }


@click.command(help=__doc__)
@click.option("--streams", default="1,8,32", show_default=True, help="At once.")
@click.option("--tokens", default=400, show_default=True, help="Of each text at most.")
@click.option("--turns", default=5, show_default=True)
@click.option("--name", default="serving-generation", show_default=True, help="Of the result files.")
def main(streams: str, tokens: int, turns: int, name: str) -> None:
    counts = [int(count) for count in streams.split(",")]
    before = describe_machine()
    artifact = prepare_model(SHIPPED.name, decode=True).artifact
    with run_server(artifact, "--max-streams", str(max(counts))) as server:
        found = measure(server, counts, tokens, turns)
    rows = [describe_streams(count, found[count]) for count in counts]
    title = f"Serving: texts of {tokens} tokens, streamed"
    print_table(title, rows)
    least, most = found[min(counts)], found[max(counts)]
    gain = statistics.median(b / a for a, b in zip(least.rates, most.rates, strict=True))
    verdict = "reached" if gain >= MIN_GAIN else "NOT reached"
    notes = [
        f"Tokens a second of {max(counts)} streams over {min(counts)}, the median of neighbours: {gain:.2f}, "
        f"wanted at least {MIN_GAIN:g}: {verdict}.",
        "Each text was the same in every turn and with every number of others.",
        describe_run(describe_machine(), before),
    ]
    for note in notes:
        click.echo(note)
    data = {"machine": before, "gain": gain, "streams": {count: vars(each) for count, each in found.items()}}
    write_results(name, title, rows, data, notes)


if __name__ == "__main__":
    main()
