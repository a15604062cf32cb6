"""The listening socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from reformer_export.errors import InputError
from reformer_export.serving.listen import describe_address, open_listener


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
