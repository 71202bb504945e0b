import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from crishim.interfaces.capabilities import ByteStream
from crishim.model.values import SandboxId
from crishim.streaming.connection import Timeouts
from crishim.streaming.flow import Limits
from crishim.testing import FakeBackend, MemoryStream
from tests.streaming.children import ChildBackend
from tests.streaming.spdy_client import SpdyClient, SpdyStream, spdy
from tests.streaming.websocket_client import tunnel, websocket
from tests.streaming.worlds import World, stands_still, until, world

FORWARD = "portforward.k8s.io"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Ports(FakeBackend):
    """Every connection to a port is a pair of ends in memory; the far ones are in `far`, by port."""

    def __init__(self) -> None:
        super().__init__(logs_to_disk=False)
        self.far: dict[int, MemoryStream] = {}
        self.near: dict[int, MemoryStream] = {}

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        self.near[port], self.far[port] = MemoryStream.pair()
        return self.near[port]


class Forwarded:
    """A forwarded connection, opened as client-go opens it."""

    def __init__(self, error: SpdyStream, data: SpdyStream) -> None:
        self.error = error
        self.data = data


async def forwarded(client: SpdyClient, port: int, request: int = 0) -> Forwarded:
    error = await client.open(streamtype="error", port=str(port), requestid=str(request))
    await error.finish()
    return Forwarded(error, await client.open(streamtype="data", port=str(port), requestid=str(request)))


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server on the loopback; its port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def spdy_forward(served: World) -> AsyncIterator[SpdyClient]:
    async with spdy(await served.forward(), FORWARD) as client:
        yield client


@contextlib.asynccontextmanager
async def tunnelled_forward(served: World) -> AsyncIterator[SpdyClient]:
    async with tunnel(await served.forward()) as client:
        yield client


Forwarding = Callable[[World], contextlib.AbstractAsyncContextManager[SpdyClient]]
both = pytest.mark.parametrize("forwarding", [spdy_forward, tunnelled_forward], ids=["spdy", "tunnel"])


@both
async def test_many_connections_to_many_ports(forwarding: Forwarding) -> None:
    """Connections to several ports run beside each other, each with its own bytes."""

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async def doubled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * await reader.read())
        writer.close()

    async with (
        world(ChildBackend()) as served,
        listening(upper) as one,
        listening(doubled) as other,
        forwarding(served) as client,
    ):
        pairs = [await forwarded(client, (one, other)[number % 2], number) for number in range(60)]
        for number, pair in enumerate(pairs):
            await pair.data.send(b"word%d" % number)
        for pair in reversed(pairs):
            await pair.data.finish()
        for number, pair in enumerate(pairs):
            assert (b"word%d%s" % (number, b"word%d" % number) if number % 2 else b"WORD%d" % number) == await pair.data.all()
            assert b"" == await pair.error.all()


@both
async def test_refused_port(forwarding: Forwarding) -> None:
    """A refused port is reported on its own error stream, its data stream is reset, and the others continue."""
    backend = FakeBackend(logs_to_disk=False)
    async with world(backend) as served, forwarding(served) as client:
        good = await forwarded(client, 80, 0)
        bad = await forwarded(client, 1, 1)
        message = f"error forwarding port 1 of sandbox {served.sandbox_id}: connection refused on port 1"
        assert message.encode() == await bad.error.all()
        await bad.data.ended.wait()
        assert (b"", 5) == (bytes(bad.data.content), bad.data.reset_with)
        await good.data.send(b"still here")
        await good.data.until(b"still here")
        assert not good.error.content
        later = await forwarded(client, 81, 2)
        await later.data.send(b"and again", fin=True)
        assert b"and again" == await later.data.all()


async def test_half_close_by_the_client() -> None:
    """The client's end is passed on to the port, whose answer comes after it."""
    backend = Ports()
    async with world(backend) as served, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, 80)
        await pair.data.send(b"question", fin=True)
        far = backend.far[80]
        assert [b"question", b""] == [await far.read(), await far.read()]
        await far.write(b"late ")
        await far.write(b"answer")
        await far.write_eof()
        assert b"late answer" == await pair.data.all()
        assert b"" == await pair.error.all()


async def test_half_close_by_the_port() -> None:
    """The port's end is passed on to the client at once, with the error stream's, and the client may still send."""
    backend = Ports()
    async with world(backend) as served, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, 80)
        await until(lambda: 80 in backend.far)
        far = backend.far[80]
        await far.write(b"greeting")
        await far.write_eof()
        assert b"greeting" == await pair.data.all()
        assert b"" == await pair.error.all()
        await pair.data.send(b"one")
        await pair.data.send(b"two", fin=True)
        received = b""
        while piece := await far.read():
            received += piece
        assert b"onetwo" == received


async def test_half_closed_and_silent() -> None:
    """What is half closed and silent for too long is closed in both directions."""
    backend = Ports()
    async with world(backend, timeouts=Timeouts(half_closed=0.05)) as served, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, 80)
        await pair.data.finish()
        await pair.data.ended.wait()
        assert 5 == pair.data.reset_with
        assert b"" == await pair.error.all()
        assert b"" == await backend.near[80].read()


async def test_client_resets_a_connection() -> None:
    """A data stream that the client resets closes that connection to the port, and no other."""
    backend = Ports()
    async with world(backend) as served, spdy(await served.forward(), FORWARD) as client:
        one, other = await forwarded(client, 80, 0), await forwarded(client, 81, 1)
        await until(lambda: {80, 81} <= backend.far.keys())
        await one.data.give_up()
        assert b"" == await backend.far[80].read()
        await other.data.send(b"alive")
        assert b"alive" == await backend.far[81].read()


async def test_client_leaves() -> None:
    """When the client leaves, its connections to ports are closed."""
    backend = Ports()
    async with world(backend) as served:
        async with spdy(await served.forward(), FORWARD) as client:
            await forwarded(client, 80)
            await until(lambda: 80 in backend.far)
            client.drop()
        assert b"" == await backend.far[80].read()
        await until(lambda: not served.server.connections)


async def test_close_by_the_client() -> None:
    """A client that sends GOAWAY or Close gets the server's, and the socket is closed."""
    async with world() as served, spdy(await served.forward(), FORWARD) as client:
        await client.send_close()
        await client.gone.wait()


async def test_port_that_breaks_off() -> None:
    """A broken connection of a port is reported on the error stream, and the data stream is reset."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with world(ChildBackend()) as served, listening(reset) as port, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, port)
        await pair.data.send(b"x")
        assert (await pair.error.all()).startswith(f"error forwarding port {port} of sandbox".encode())
        await pair.data.ended.wait()
        assert 5 == pair.data.reset_with


async def test_answer_of_a_port_that_takes_no_more() -> None:
    """Data that a port sent before it stopped reading still reaches the client, whose further data is dropped."""
    backend = Ports()
    async with world(backend) as served, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, 80)
        await until(lambda: 80 in backend.near)

        async def refuse(data: bytes) -> None:
            raise BrokenPipeError(f"{len(data)} bytes too many")

        backend.near[80].write = refuse  # type: ignore[method-assign]
        for _ in range(20):
            await pair.data.send(bytes(60_000))
        await backend.far[80].write(b"enough")
        await backend.far[80].write_eof()
        assert b"enough" == await pair.data.all()


async def test_stalled_port() -> None:
    """A port that does not read stops the client at a bound of bytes."""
    gone_on = asyncio.Event()

    async def stalled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone_on.wait()
        writer.transport.abort()
        del reader

    async with world(ChildBackend()) as served, listening(stalled) as port, spdy(await served.forward(), FORWARD) as client:
        pair = await forwarded(client, port)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await pair.data.send(bytes(65536))
                sent += 65536

        flooding = asyncio.create_task(flood())
        await stands_still(lambda: sent)
        assert served.connection.buffered <= Limits().stream_unread + 64 * 1024
        flooding.cancel()
        gone_on.set()


async def test_pairs_without_request_ids() -> None:
    """Without request ids, the data stream's is the error stream's and 2."""
    async with world() as served, spdy(await served.forward(), FORWARD) as client:
        await client.open(streamtype="error", port="80")
        data = await client.open(streamtype="data", port="80")
        await data.send(b"paired", fin=True)
        assert b"paired" == await data.all()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data"},
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "65536"},
        {"streamtype": "data", "port": "http"},
        {"streamtype": "stdout", "port": "80"},
        {"port": "80"},
    ],
)
async def test_streams_that_are_refused(headers: dict[str, str]) -> None:
    """A stream of another type, or without a port between 1 and 65535, is reset; the next one is fine."""
    async with world() as served, spdy(await served.forward(), FORWARD) as client:
        assert 5 == (await client.open(**headers)).reset_with
        pair = await forwarded(client, 80)
        await pair.data.send(b"fine", fin=True)
        assert b"fine" == await pair.data.all()


async def test_second_stream_of_a_kind() -> None:
    """A second error stream of one request is reset; the pair uses the first."""
    async with world() as served, spdy(await served.forward(), FORWARD) as client:
        await client.open(streamtype="error", port="80", requestid="7")
        second = await client.open(streamtype="error", port="80", requestid="7")
        await second.ended.wait()
        assert 5 == second.reset_with
        data = await client.open(streamtype="data", port="80", requestid="7")
        await data.send(b"first", fin=True)
        assert b"first" == await data.all()


async def test_stream_that_stays_alone() -> None:
    """A stream whose other does not come in time is reset, and its request id is free again; so it is after a reset."""
    async with world(timeouts=Timeouts(creation=0.05)) as served, spdy(await served.forward(), FORWARD) as client:
        alone = await client.open(streamtype="error", port="80", requestid="0")
        await alone.ended.wait()
        assert 5 == alone.reset_with
        given_up = await client.open(streamtype="error", port="80", requestid="0")
        await given_up.give_up()
        pair = await forwarded(client, 80)
        await pair.data.send(b"free", fin=True)
        assert b"free" == await pair.data.all()


async def test_websocket_channels() -> None:
    """Over channels each port of the request has two, which begin with its number; the WebSocket ends with the last port."""
    backend = Ports()
    async with world(backend) as served, websocket(await served.forward(80, 443), "v4.channel.k8s.io") as client:
        await until(lambda: {80, 443} <= backend.far.keys())
        await client.send(b"\x00to 80")
        await client.send(b"\x02to 443")
        assert [b"to 80", b"to 443"] == [await backend.far[80].read(), await backend.far[443].read()]
        await backend.far[80].write(b"from 80")
        await backend.far[80].write_eof()
        await client.until(0, b"from 80")
        await client.send(b"\x02more")
        assert b"more" == await backend.far[443].read()
        await backend.far[443].write_eof()
        await client.gone.wait()
        assert 1000 == client.close_code
        assert [b"\x50\x00from 80", b"\x50\x00", b"\xbb\x01", b"\xbb\x01"] == [client.channel(number) for number in range(4)]


async def test_websocket_channels_to_a_refused_port() -> None:
    """Over channels a refused port is reported on its error channel."""
    async with world() as served, websocket(await served.forward(1)) as client:
        await client.gone.wait()
        assert client.channel(1).startswith(b"\x01\x00error forwarding port 1 of sandbox")
