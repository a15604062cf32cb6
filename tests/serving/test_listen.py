"""The listening socket."""

from __future__ import annotations

import asyncio
import resource
import socket

import pytest

from reformer_export.errors import InputError
from reformer_export.serving.listen import OTHER_FILES, allow_files, describe_address, open_listener


def test_small_answers_do_not_wait_for_an_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY where a socket says that it is TCP's."""

    async def run() -> None:
        accepted = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connected = transport.get_extra_info("socket")
                accepted.set_result(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        listener = open_listener("127.0.0.1", 0)
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(accepted, 20) == 1
            writer.close()

    asyncio.run(run())


def test_an_address_that_is_taken() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert describe_address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=r"\(Address already in use\), expected a free one"):
            open_listener("127.0.0.1", port)


def test_a_server_may_open_the_files_that_its_connections_take(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [100, 1000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    for needed, soft in ((90, 100), (300, 300), (200, 300), (1000, 1000)):
        allow_files(needed)
        assert limits == [soft, 1000]
    with pytest.raises(InputError, match=f"max_connections: got 600, .* at most {1000 - OTHER_FILES}"):
        allow_files(600 + OTHER_FILES)
    limits[:] = [5, resource.RLIM_INFINITY]
    allow_files(10**9)
    assert limits == [10**9, resource.RLIM_INFINITY]
