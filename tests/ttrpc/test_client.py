import asyncio
import contextlib
import errno
import socket
from pathlib import Path

import pytest

from crishim.errors import Code, DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request, Status
from crishim.ttrpc.frames import MAX_DATA
from crishim.ttrpc.server import ServerStream
from crishim.ttrpc.status import TtrpcError
from tests.ttrpc.world import connected, serving


async def echo(request: Request) -> bytes:
    return request.payload


async def never(request: Request) -> bytes:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def test_many_calls_at_once(tmp_path: Path) -> None:
    """Calls under way at once each get their own answer, in whatever order these come."""
    pending: list[asyncio.Future[None]] = []

    async def waiting(request: Request) -> bytes:
        pending.append(asyncio.get_running_loop().create_future())
        await pending[-1]
        return request.payload

    async with connected(tmp_path, {("s", "Held"): waiting}) as client:
        calls = [asyncio.create_task(client.call("s", "Held", str(number).encode())) for number in range(50)]
        while len(pending) < 50:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for future in reversed(pending):
            future.set_result(None)
        assert [str(number).encode() for number in range(50)] == await asyncio.gather(*calls)


async def test_timeout_and_metadata_are_sent(tmp_path: Path) -> None:
    """The server gets the timeout in nanoseconds and the metadata; without a timeout it is 0."""
    seen = []

    async def describe(request: Request) -> bytes:
        seen.append((request.timeout, request.metadata))
        return b""

    async with connected(tmp_path, {("s", "M"): describe}) as client:
        await client.call("s", "M", b"", timeout=2.5, metadata=(("k", "v"),))
        await client.call("s", "M", b"")
    assert [(2_500_000_000, (("k", "v"),)), (0, ())] == seen


async def test_a_call_runs_out_of_its_time(tmp_path: Path) -> None:
    """A call that takes too long raises DeadlineExceeded at the client, and the connection can still be used."""
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.closing(listening):
        listening.bind(str(tmp_path / "mute"))
        listening.listen()
        client = await Client.connect(f"unix://{tmp_path}/mute")
        with pytest.raises(DeadlineExceeded):
            await client.call("s", "M", b"", timeout=0.01)
        assert {} == client._wire._waiting
        await client.close()


async def test_refusals_are_raised(tmp_path: Path) -> None:
    """A status that is not OK is raised with its code; one that gRPC does not know is UNKNOWN."""

    async def refuses(request: Request) -> bytes:
        raise TtrpcError(Status(int(request.payload), "no"))

    async with connected(tmp_path, {("s", "M"): refuses}) as client:
        for code, answer in ((5, Code.NOT_FOUND), (77, Code.UNKNOWN)):
            with pytest.raises(TtrpcError, match="no") as caught:
                await client.call("s", "M", str(code).encode())
            assert answer is caught.value.answer


async def test_a_closed_connection_is_unavailable(tmp_path: Path) -> None:
    """When the server goes away every call under way raises Unavailable, and so does every later one."""
    async with serving(tmp_path, {("s", "M"): never}) as address:
        client = await Client.connect(address)
        calls = [asyncio.create_task(client.call("s", "M", b"")) for _ in range(3)]
        await asyncio.sleep(0)
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        await client.call("s", "M", b"")
    with pytest.raises(Unavailable):
        client.stream("s", "M", more=True)
    assert client.closed.done()
    await client.close()


async def test_connecting_without_a_listener(tmp_path: Path) -> None:
    """Without a listener, connecting raises Unavailable; for an invalid address, InvalidArgument."""
    with pytest.raises(Unavailable):
        await Client.connect(f"unix://{tmp_path}/nobody")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "stale"))
    stale.close()
    with pytest.raises(Unavailable):
        await Client.connect(f"unix://{tmp_path}/stale")
    with pytest.raises(InvalidArgument):
        await Client.connect("vsock://nowhere")
    with pytest.raises(InvalidArgument):
        await Client.connect("unix://" + "x" * 200)


async def test_no_descriptor_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are no descriptors left, connecting raises ResourceExhausted: nothing was learnt of the other side."""

    def none(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none)
    with pytest.raises(ResourceExhausted):
        await Client.connect(f"unix://{tmp_path}/s")


async def test_abstract_names(tmp_path: Path) -> None:
    """An address without a scheme is the name of an abstract socket."""
    name = str(tmp_path / "abstract")
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.closing(listening):
        listening.bind(f"\0{name}")
        listening.listen()
        client = await Client.connect(name)
        await client.close()
    assert client.closed.done()


async def test_too_long_requests(tmp_path: Path) -> None:
    """A request over 4 MiB is refused here, one just below it travels, and the connection goes on."""
    async with connected(tmp_path, {("s", "M"): echo}) as client:
        with pytest.raises(ResourceExhausted):
            await client.call("s", "M", bytes(MAX_DATA))
        near = bytes(MAX_DATA - 100)
        assert near == await client.call("s", "M", near)


async def test_a_cancelled_call_is_forgotten(tmp_path: Path) -> None:
    """A call that is cancelled leaves nothing behind, and what comes for it later is ignored."""
    gate = asyncio.Event()

    async def gated(request: Request) -> bytes:
        await gate.wait()
        return b"late"

    async with connected(tmp_path, {("s", "Gated"): gated, ("s", "Echo"): echo}) as client:
        call = asyncio.create_task(client.call("s", "Gated", b""))
        await client.call("s", "Echo", b"")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.set()
        assert b"x" == await client.call("s", "Echo", b"x")
        assert {} == client._wire._waiting


async def test_garbage_from_a_server(tmp_path: Path) -> None:
    """A server that sends garbage answers no call; when it disconnects, calls raise Unavailable."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(garbage, tmp_path / "s")
    client = await Client.connect(f"unix://{tmp_path}/s")
    with pytest.raises(Unavailable):
        await client.call("s", "M", b"")
    await client.close()
    server.close()


async def test_streams_both_ways(tmp_path: Path) -> None:
    """A stream carries messages both ways; the handler's answer ends it, as a message or with the last data."""

    async def shouts(stream: ServerStream) -> bytes | None:
        while (message := await stream.receive()) is not None:
            await stream.send(message.upper())
        return None if stream.request.payload == b"bare" else b"sum"

    async with connected(tmp_path, {}, {("s", "Shout"): shouts}) as client:
        stream = client.stream("s", "Shout", b"bare", more=True)
        stream.send(b"a")
        assert b"A" == await stream.receive()
        stream.send(b"b")
        stream.end()
        assert [b"B", None, None] == [await stream.receive() for _ in range(3)]
        assert b"" == await stream.result()
        stream = client.stream("s", "Shout", more=False)
        assert (None, b"sum") == (await stream.receive(), await stream.result())


async def test_a_stream_that_is_refused(tmp_path: Path) -> None:
    """A stream's refusal is raised where its messages are read; one that is given up raises nothing."""

    async def refuses(stream: ServerStream) -> bytes | None:
        await stream.send(b"one")
        raise ResourceExhausted("no more")

    async with connected(tmp_path, {}, {("s", "M"): refuses}) as client:
        stream = client.stream("s", "M", more=False)
        assert b"one" == await stream.receive()
        with pytest.raises(TtrpcError):
            await stream.receive()
        with pytest.raises(ResourceExhausted):
            stream.send(bytes(MAX_DATA + 1))
        given_up = client.stream("s", "M", more=False)
        given_up.close()
        with pytest.raises(asyncio.CancelledError):
            await given_up.result()
