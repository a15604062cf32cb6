"""The program in a process of its own, forked from a server, on descriptors that a test chooses."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 120
PRELOADED = ["onnx", "onnxruntime", "reformer_export.cli.run", "reformer_export.cli.inspect", __name__]


@dataclass(frozen=True)
class Ended:
    """How the program ended: its exit status, what it wrote into the pipe, and its messages."""

    status: int | None
    stdout: bytes
    stderr: str


def run_on_pipe(arguments: tuple[object, ...], read_bytes: int | None = None) -> Ended:
    """The program, whose standard output is a pipe that is closed after `read_bytes`; None reads all."""
    context = _context()
    out_reader, out_writer = context.Pipe(duplex=False)
    err_reader, err_writer = context.Pipe(duplex=False)
    if read_bytes == 0:
        out_reader.close()
    process = context.Process(target=_run, args=(out_writer, err_writer, tuple(map(str, arguments)), None))
    process.start()
    out_writer.close()
    err_writer.close()
    stdout = b""
    if read_bytes != 0:
        stdout = _read(out_reader, read_bytes)
        out_reader.close()
    stderr = _read(err_reader, None).decode()
    return Ended(_join(process), stdout, stderr)


def run_into_file(arguments: tuple[object, ...], path: Any, max_bytes: int) -> Ended:
    """The program, whose standard output is the file `path`, on a disk that is full after `max_bytes`."""
    context = _context()
    err_reader, err_writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_run, args=(str(path), err_writer, tuple(map(str, arguments)), max_bytes)
    )
    process.start()
    err_writer.close()
    stderr = _read(err_reader, None).decode()
    return Ended(_join(process), path.read_bytes(), stderr)


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _join(process: Any) -> int | None:
    process.join(SECONDS)
    is_alive = process.is_alive()
    process.kill()
    process.join()
    assert not is_alive, "the program hangs"
    return int(process.exitcode)


def _read(reader: Connection, size: int | None) -> bytes:
    """`size` bytes at most, or all, until the other end is closed."""
    data = b""
    while size is None or len(data) < size:
        block = os.read(reader.fileno(), 65536 if size is None else size - len(data))
        if not block:
            break
        data += block
    return data


def _run(stdout: Connection | str, stderr: Connection, arguments: tuple[str, ...], limit: int | None) -> None:
    descriptor = (
        os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if isinstance(stdout, str)
        else stdout.fileno()
    )
    os.dup2(descriptor, 1)
    os.dup2(stderr.fileno(), 2)
    os.close(descriptor) if isinstance(stdout, str) else stdout.close()
    stderr.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["reformer-export", *arguments]
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from reformer_export.cli.main import main

    main()
