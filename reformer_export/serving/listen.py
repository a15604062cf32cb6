"""Serve until a signal: listen, answer, finish what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from reformer_export.errors import InputError, reason_of
from reformer_export.serving.app import Server, make_app, make_server
from reformer_export.serving.options import ServeOptions
from reformer_export.serving.timed_protocol import TimedProtocol

LOOK_SECONDS: Final = 1.0
"""Between two looks at the artifacts' folders."""
BACKLOG: Final = 2048
"""Connections that the system keeps until they are accepted."""
ACCEPTED_AT_ONCE: Final = 128
OTHER_FILES: Final = 512
"""Open files besides `max_connections`: connections on their way in and out, workers' sockets, memories."""

OnReady = Callable[[str, Server], None]


def serve_until_signal(options: ServeOptions, on_ready: OnReady) -> int:
    """How many accepted requests were cut off, 0 when all were finished; see `reformer_export.serve`."""
    server = make_server(options)
    allow_files(options.max_connections + OTHER_FILES)
    return asyncio.run(_serve(server, on_ready))


async def _serve(server: Server, on_ready: OnReady) -> int:
    listener = open_listener(server.options.host, server.options.port)
    try:
        await server.start()
        looking = asyncio.ensure_future(_look_at_folders(server))
        runner = _Runner(server, functools.partial(on_ready, describe_address(listener), server))
        await runner.serve(sockets=[listener])
        looking.cancel()
        server.log.say("stopped", cut_off=runner.cut_off)
        return runner.cut_off
    finally:
        listener.close()
        await server.close()


def allow_files(needed: int) -> None:
    """Have the system let this process open so many files; InputError where it may not. A server that cannot
    accept a connection for want of one does nothing but say so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or needed <= hard:
        if 0 <= soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    got, expected = f"{needed - OTHER_FILES}, with {hard} open files", f"at most {hard - OTHER_FILES}"
    raise InputError("max_connections", got, expected, "choose fewer, or raise the limit (ulimit -Hn)")


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; InputError where the system refuses it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # so that nobody who is told the address is refused
    except (OSError, UnicodeError) as error:
        listener.close()
        fix = "choose another with `host` and `port`"
        got, expected = f"{host}:{port} ({reason_of(error)})", "a free one of this machine"
        raise InputError("address", got, expected, fix) from error
    return listener


def describe_address(listener: socket.socket) -> str:
    """As a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _look_at_folders(server: Server) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for model in server.models.values():
            model.look_for_replacement()


class _Runner(uvicorn.Server):
    """uvicorn's loop, which a signal ends with what was accepted finished, and with our exit status."""

    def __init__(self, server: Server, on_ready: Callable[[], None]) -> None:
        options = server.options
        limits = {name: getattr(options, name) for name in ("client_timeout", "max_connections")}
        protocol = type("Protocol", (TimedProtocol,), limits)
        config = uvicorn.Config(
            make_app(server),
            http=protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=options.keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=options.drain,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._server = server
        self._on_ready = on_ready
        self.cut_off = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A second signal ends at once."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop, name.name)
        try:
            yield
        finally:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
            url, models = describe_address(listener), list(self._server.models)
            self._server.log.say("listening", url=url, models=models)
        self._on_ready()

    def _stop(self, name: str) -> None:
        self.force_exit = self.should_exit
        self.should_exit = self._server.is_draining = True
        self._server.log.say("stopping", signal=name, open_requests=len(self.server_state.tasks))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.cut_off = len(self.server_state.tasks)
