import asyncio
import resource
import socket

import pytest

from crishim.streaming.connection import Timeouts
from tests.streaming.raw import closed, connected, spoken, still_serves
from tests.streaming.worlds import until, world


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\x00\x01\x02 garbage \xff\r\n\r\n", 400),
        (b"POST /exec/x SPDY/3.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /exec/x HTTP/1.1\r\n\r\n", 400),
        (b"GET /exec/x HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 20_000, 431),
        (b"GET /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    ],
)
async def test_broken_heads(head: bytes, status: int) -> None:
    """What is not HTTP/1.1, or is too long, is refused and closed."""
    async with world() as served:
        assert f"HTTP/1.1 {status} ".encode() == (await spoken(served, head))[:13]


async def test_what_follows_a_refusal_is_ignored() -> None:
    """A connection is good for one request."""
    async with world() as served:
        one = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        assert 1 == (await spoken(served, one + one, one)).count(b"HTTP/1.1 404")


async def test_slow_head() -> None:
    """A head that drips is answered by 408 when its time is up, however often a byte comes."""
    async with world(timeouts=Timeouts(head=0.2)) as served:
        reader, writer = await connected(served)

        async def drip() -> None:
            writer.write(b"GET /exec/x HTTP/1.1\r\n")
            while True:
                writer.write(b"X")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert b"HTTP/1.1 408 " == (await reader.read())[:13]
        dripping.cancel()
        await closed(writer)
        assert await still_serves(served)


async def test_refused_client_that_stays() -> None:
    """A refused client that does not close is closed."""
    async with world(timeouts=Timeouts(linger=0.05)) as served:
        reader, writer = await connected(served)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404")
        await until(lambda: not served.server._pending)
        await closed(writer)


async def test_too_many_connections() -> None:
    """Connections over the cap are refused by 503, and others are taken when some have left."""
    async with world(connections=3) as served:
        open_connections = [await connected(served) for _ in range(3)]
        await until(lambda: 3 == len(served.server._pending))
        reader, writer = await connected(served)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"the server is at its limit of 3 connections" in answer
        for _, other in (*open_connections, (reader, writer)):
            await closed(other)
        await until(lambda: not served.server._pending)
        assert await still_serves(served)


async def test_half_open_connections() -> None:
    """Ten thousand connections (or what the file limit allows) that say nothing, or half a head, leave the server serving."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * wanted), hard))
    count = min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
    sockets: list[socket.socket] = []
    try:
        async with world() as served:
            for number in range(count):
                sockets.append(socket.create_connection(("127.0.0.1", served.server.port)))
                sockets[-1].sendall(b"POST /exec/" * (number % 2))
                if not number % 100:
                    await asyncio.sleep(0)
            await until(lambda: count == len(served.server._pending))
            assert await still_serves(served)
    finally:
        for one in sockets:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
