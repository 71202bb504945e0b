"""Connections: reused, broken, upgraded."""

import pytest

from crishim.backends.docker.http import HttpClient, Reply, TakenOver
from crishim.errors import Unavailable
from tests.backends.docker.http_server import Served, serving


async def test_connections_are_reused() -> None:
    """One connection serves one request after the other."""
    async with serving(Served(200, b"a"), Served(404, b"b")) as server:
        client = HttpClient(server.path)
        assert Reply(200, b"a") == await client.request("GET", "/x")
        assert Reply(404, b"b") == await client.request("POST", "/y", b"{}")
        assert (1, ["/x", "/y"]) == (server.connections, server.targets)
        client.close()


async def test_a_connection_that_died_is_not_reused() -> None:
    """A reused connection that the server has closed is replaced; no request is sent twice."""
    ended = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    async with serving(Served(raw=ended), Served(200, b"b")) as server:
        client = HttpClient(server.path)
        assert Reply(200, b"a") == await client.request("GET", "/x")
        assert Reply(200, b"b") == await client.request("GET", "/y")
        assert ["/x", "/y"] == server.targets
        client.close()


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"],
)
async def test_broken_replies(raw: bytes) -> None:
    """A reply that is cut off anywhere is an error: the engine is unavailable."""
    async with serving(Served(raw=raw)) as server:
        with pytest.raises(Unavailable):
            await HttpClient(server.path).request("GET", "/x")


async def test_no_listener() -> None:
    """Without a server the error names the place."""
    with pytest.raises(Unavailable, match="/no/such/socket"):
        await HttpClient("/no/such/socket").request("GET", "/x")


async def test_a_stream_that_is_left_early() -> None:
    """A stream that is not read to its end closes its connection, and the next request gets another."""
    async with serving(Served(200, b"x" * 10000), Served(200, b"b")) as server:
        client = HttpClient(server.path)
        async with client.stream("GET", "/x") as pieces:
            assert 200 == pieces.status
        assert Reply(200, b"b") == await client.request("GET", "/y")
        assert 2 == server.connections
        client.close()


async def test_taken_over() -> None:
    """After an upgrade the connection is a stream; bytes that came with the head are read first."""
    raw = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly"
    async with serving(Served(raw=raw)) as server:
        taken = await HttpClient(server.path).take_over("/x", b"{}")
        assert isinstance(taken, TakenOver)
        assert b"early" == await taken.read()
        assert b"" == await taken.read()
        await taken.close()
        with pytest.raises(BrokenPipeError):
            await taken.write(b"late")


async def test_take_over_is_refused() -> None:
    """A server that does not hand over its connection answers."""
    async with serving(Served(409, b"no")) as server:
        assert Reply(409, b"no") == await HttpClient(server.path).take_over("/x", b"{}")
