"""Texts through `reformer-export serve`, one at a time and many at once: tokens a second.

    python -m benchmarks.bench_serving_generation [OUT] [--streams 1,8,32] [--tokens 400] [--turns 5]

A server of its own on this machine, and streams of /v1/completions over sockets, each with its own prompt and
seed; the numbers of streams take turns. OUT is an artifact with decode.onnx; without it, the shipped model is
exported. Each turn's texts are compared with those of the first turn: the same seeds give the same texts,
whatever runs beside them. The client does as little as it can, but it shares the machine's cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

ROOT: Final = Path(__file__).parents[1]
MODEL: Final = ROOT / "models" / "kjv-bytes"
PROMPT: Final = "In the beginning of chapter {} God"
WARM_UP_TOKENS: Final = 20


class _Client(asyncio.Protocol):
    """Sends one request, keeps what comes, and is done when the server closes."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.parts: list[bytes] = []
        self.first: float = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.first = self.first or time.perf_counter()
        self.parts.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)


def write_request(index: int, tokens: int) -> bytes:
    body = json.dumps(
        {
            "prompt": PROMPT.format(index),
            "max_tokens": tokens,
            "temperature": 0.8,
            "seed": index,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def stream_texts(port: int, streams: int, tokens: int) -> tuple[float, list[float], list[str], int]:
    """Seconds for all, seconds to each one's first bytes, the texts, and their tokens in all."""
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    clients = []
    for index in range(streams):
        request = write_request(index, tokens)
        _, client = await loop.create_connection(lambda r=request: _Client(r), "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.closed for client in clients))
    seconds = time.perf_counter() - begun
    texts, count = [], 0
    for client in clients:
        answer = b"".join(client.parts).decode()
        assert "data: [DONE]" in answer, answer[-300:]
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        texts.append("".join(choice["text"] for event in events for choice in event["choices"]))
        count += events[-1]["usage"]["completion_tokens"]
    return seconds, [client.first - begun for client in clients], texts, count


@contextlib.contextmanager
def start_server(artifact: Path, arguments: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The port and the process of a server of `artifact`."""
    command = [sys.executable, "-m", "reformer_export", "serve", str(artifact), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.search(r'"url":"http://[^"]*:(\d+)"', line):
                break
        else:
            raise click.ClickException("the server did not start")
        try:
            yield int(found[1]), server.pid
        finally:
            server.terminate()


def cpu_seconds(pid: int) -> list[float]:
    """Of a process and its children, in this order."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = os.sysconf("SC_CLK_TCK")
    times = []
    for each in (str(pid), *children):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        times.append((int(fields[11]) + int(fields[12])) / ticks)
    return times


@click.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--streams", default="1,8,32")
@click.option("--tokens", default=400)
@click.option("--turns", default=5)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1)
def main(
    out: Path | None,
    streams: str,
    tokens: int,
    turns: int,
    json_file: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Measure tokens a second of numbers of streams, in turns."""
    numbers = [int(number) for number in streams.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        if out is None:
            from reformer_export import export_checkpoint

            out = Path(folder) / "out"
            export_checkpoint(str(MODEL), out, decode=True, tokenizer="bytes")
        with start_server(out, arguments) as (port, pid):
            asyncio.run(stream_texts(port, max(numbers), WARM_UP_TOKENS))
            rates: dict[int, list[float]] = {number: [] for number in numbers}
            firsts: dict[int, list[float]] = {number: [] for number in numbers}
            shares: dict[int, list[list[float]]] = {number: [] for number in numbers}
            known: dict[int, str] = {}
            for _ in range(turns):
                for number in numbers:
                    before = cpu_seconds(pid)
                    seconds, first, texts, count = asyncio.run(stream_texts(port, number, tokens))
                    used = [1e6 * (b - a) / count for a, b in zip(before, cpu_seconds(pid), strict=True)]
                    rates[number].append(count / seconds)
                    firsts[number] += first
                    shares[number].append(used)
                    for index, text in enumerate(texts):
                        if known.setdefault(index, text) != text:
                            raise click.ClickException(f"text {index} differs from the first turn's")
            for number in numbers:
                front, worker = (statistics.median(each) for each in zip(*shares[number]))
                print(
                    number,
                    "tok/s %.0f" % statistics.median(rates[number]),
                    "first ms %.1f" % (1e3 * statistics.median(firsts[number])),
                    "front us/token %.0f worker %.0f" % (front, worker),
                    ["%.0f" % r for r in rates[number]],
                )


if __name__ == "__main__":
    main()
