"""What is written arrives whole and in order, however it is cut, and not only when there is room for it."""

from __future__ import annotations

import asyncio
import random
import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.serving.gathering import GatheringTransport


async def read_slowly(connected: socket.socket, turns: random.Random) -> bytes:
    """All that comes until the other end closes."""
    loop, parts = asyncio.get_running_loop(), []
    while part := await loop.sock_recv(connected, turns.choice((1, 300, 10**5))):
        parts.append(part)
        if len(part) == 1:
            await asyncio.sleep(0)
    return b"".join(parts)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 50, 3000, 400_000]), st.booleans()), max_size=8), st.randoms()
)
def test_everything_arrives_in_order(pieces: list[tuple[int, bool]], turns: random.Random) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        reading = asyncio.ensure_future(read_slowly(theirs, turns))
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        gathering = GatheringTransport(transport)
        written = [turns.randbytes(min(size, 1000)) * max(1, size // 1000) for size, _ in pieces]
        for piece, (size, flushes) in zip(written, pieces, strict=True):
            gathering.write(memoryview(piece) if size % 2 else piece)
            if flushes:
                gathering.flush()
                await asyncio.sleep(0)
        gathering.close()
        assert gathering.is_closing()
        assert await reading == b"".join(written)
        theirs.close()

    asyncio.run(run())


def test_a_head_and_its_body_are_one_packet_at_the_end_of_the_turn() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            gathering = GatheringTransport(transport)
            for piece in (b"head", b"", b"body"):
                gathering.write(piece)
            assert gathering.get_write_buffer_size() == 0
            await asyncio.sleep(0)
            assert theirs.recv(100) == b"headbody"
            theirs.close()
            gathering.write(b"nobody reads")
            gathering.flush()  # the transport finds that out
            gathering.close()

    asyncio.run(run())
