"""Start a worker's process and end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from reformer_export.serving.connection import OnLost, OnMessage, WorkerConnection
from reformer_export.serving.shared_memory import SharedMemory

MODULE: Final = "reformer_export.serving.worker_process"
SOCKET_BYTES: Final = 4 * 2**20
"""Asked of the system for a socket's buffers: large answers then take fewer turns."""

STANDARD_ERROR: Final = 2


@dataclass(frozen=True)
class RunningProcess:
    """A worker's process, the connection to it, and the memory that is its and ours."""

    process: asyncio.subprocess.Process
    connection: WorkerConnection
    memory: SharedMemory

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, seconds: float) -> int:
        """Give it so many seconds to end by itself, then end it; its exit status, negative for a signal."""
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(self.process.wait(), seconds)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return await self.process.wait()


async def start_process(on_message: OnMessage, on_lost: OnLost, max_payload: int) -> RunningProcess:
    """A process that waits for its `Start`.

    It finds the modules that this one finds, and is in the root folder, because Python looks for modules
    where it is, and there no stranger can put any. Its standard output is this one's standard error.
    """
    memory = SharedMemory(max_payload)
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(memory.descriptor):
        for end in (ours, theirs):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, SOCKET_BYTES)
        ours.setblocking(False)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            str(theirs.fileno()),
            str(memory.descriptor.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=STANDARD_ERROR,
            pass_fds=(theirs.fileno(), memory.descriptor.fileno()),
            cwd=os.sep,
            env=environment,
        )
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: WorkerConnection(on_message, on_lost, max_payload), sock=ours
    )
    return RunningProcess(process, connection, memory)


def describe_death(status: int, error: Exception | None) -> str:
    """How a process ended, in words that follow "its worker"."""
    if error is not None:
        return f"sent what is no answer ({type(error).__name__}) and was ended"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        short = ", as the system does when memory is short" if -status == signal.SIGKILL else ""
        return f"was ended by {name}{short}"
    return f"ended with status {status}"
