import asyncio
import contextlib
import logging
import socket
from pathlib import Path

import pytest

from crishim._proto import ttrpc_pb2 as pb
from crishim.errors import Code, FailedPrecondition, NotFound
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.frames import HEADER, MAX_DATA, Frame, FrameDecoder, Kind, encode
from crishim.ttrpc.server import Server, ServerStream
from crishim.ttrpc.status import TtrpcError
from tests.ttrpc.world import connected, serving


async def echo(request: Request) -> bytes:
    return request.payload


async def answer_of(client: Client, method: str, timeout: float | None = None) -> Code:
    with pytest.raises(TtrpcError) as caught:
        await client.call("s", method, b"", timeout=timeout)
    return caught.value.answer


async def test_errors_are_answered_with_their_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of ours give their codes, a method that is not there UNIMPLEMENTED, a bug UNKNOWN with its traceback logged."""

    async def not_found(request: Request) -> bytes:
        raise NotFound("task", "t")

    async def broken(request: Request) -> bytes:
        raise ValueError("a bug")

    async with connected(tmp_path, {("s", "Nobody"): not_found, ("s", "Broken"): broken}) as client:
        with caplog.at_level(logging.ERROR):
            codes = [await answer_of(client, method) for method in ("Nobody", "Broken", "Missing")]
    assert [Code.NOT_FOUND, Code.UNKNOWN, Code.UNIMPLEMENTED] == codes
    assert ["Broken raised"] == [record.message for record in caplog.records]


async def test_the_clients_timeout_is_respected(tmp_path: Path) -> None:
    """A handler is cancelled when the client's time is up, and DEADLINE_EXCEEDED answered; its own timeouts are its own."""
    cancelled = asyncio.Event()

    async def slow(request: Request) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async def own(request: Request) -> bytes:
        raise TimeoutError("its own")

    async with serving(tmp_path, {("s", "Slow"): slow, ("s", "Own"): own}) as address:
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        request_bytes = pb.Request(service="s", method="Slow", timeout_nano=1_000_000).SerializeToString()
        own_request = pb.Request(service="s", method="Own", timeout_nano=10**12).SerializeToString()
        writer.write(encode(1, Kind.REQUEST, 0, request_bytes) + encode(3, Kind.REQUEST, 0, own_request))
        frames: list[Frame] = []
        decoder = FrameDecoder()
        while len(frames) < 2:
            frames += [frame for frame in decoder.feed(await reader.read(4096)) if isinstance(frame, Frame)]
        writer.close()
    assert cancelled.is_set()
    assert {Code.DEADLINE_EXCEEDED} == {Code(pb.Response.FromString(frame.data).status.code) for frame in frames}


async def test_a_lost_connection_cancels_its_calls(tmp_path: Path) -> None:
    """When a client disconnects, its calls are cancelled; other clients continue."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async with serving(tmp_path, {("s", "Slow"): slow, ("s", "Echo"): echo}) as address:
        leaving, staying = await Client.connect(address), await Client.connect(address)
        call = asyncio.create_task(leaving.call("s", "Slow", b""))
        await begun.wait()
        await leaving.close()
        await cancelled.wait()
        assert b"still" == await staying.call("s", "Echo", b"still")
        await staying.close()
        with contextlib.suppress(Exception):
            await call
    assert call.done()


async def test_garbage_affects_no_other_client(tmp_path: Path) -> None:
    """A client that sends garbage, or a frame that is too long, is no trouble for the next."""
    async with serving(tmp_path, {("s", "Echo"): echo}) as address:
        path = address.removeprefix("unix://")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, HEADER.pack(2**32 - 1, 1, 1, 0) + b"x" * 100, b"\xff" * 9):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(garbage)
            await writer.drain()
            writer.close()
        client = await Client.connect(address)
        assert b"fine" == await client.call("s", "Echo", b"fine")
        await client.close()


async def test_a_frame_over_the_limit_is_answered(tmp_path: Path) -> None:
    """A request over 4 MiB is answered with RESOURCE_EXHAUSTED on its stream, and the connection goes on."""
    async with serving(tmp_path, {("s", "Echo"): echo}) as address:
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        small = pb.Request(service="s", method="Echo", payload=b"ok").SerializeToString()
        writer.write(HEADER.pack(MAX_DATA + 1, 1, 1, 0) + bytes(MAX_DATA + 1) + encode(3, Kind.REQUEST, 0, small))
        frames: list[Frame] = []
        decoder = FrameDecoder()
        while len(frames) < 2:
            frames += [frame for frame in decoder.feed(await reader.read(4096)) if isinstance(frame, Frame)]
        writer.close()
    refused, fine = (pb.Response.FromString(frame.data) for frame in frames)
    assert (Code.RESOURCE_EXHAUSTED, b"ok") == (refused.status.code, fine.payload)


async def test_who_does_not_read_is_not_served(tmp_path: Path) -> None:
    """A client that asks and does not read its answers is read no more, instead of filling memory."""
    served = 0

    async def big(request: Request) -> bytes:
        nonlocal served
        served += 1
        return bytes(1 << 20)

    async with serving(tmp_path, {("s", "Big"): big, ("s", "Echo"): echo}) as address:
        _, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        request_bytes = pb.Request(service="s", method="Big", payload=bytes(100_000)).SerializeToString()
        for number in range(200):
            writer.write(encode(2 * number + 1, Kind.REQUEST, 0, request_bytes))
        other = await Client.connect(address)
        for _ in range(100):
            await other.call("s", "Echo", b"")
        assert served < 100
        await other.close()
        writer.transport.abort()


async def test_streams_wait_for_their_reader(tmp_path: Path) -> None:
    """A stream's handler waits in `send` while the client does not read, and is cancelled when it leaves."""
    count = 0
    cancelled = asyncio.Event()

    async def floods(stream: ServerStream) -> bytes | None:
        nonlocal count
        try:
            while True:
                count += 1
                await stream.send(bytes(1 << 20))
        finally:
            cancelled.set()

    async with serving(tmp_path, {("s", "Echo"): echo}, {("s", "Flood"): floods}) as address:
        _, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        request_bytes = pb.Request(service="s", method="Flood").SerializeToString()
        writer.write(encode(1, Kind.REQUEST, 0, request_bytes))
        other = await Client.connect(address)
        for _ in range(100):
            await other.call("s", "Echo", b"")
        assert 0 < count < 50
        writer.transport.abort()
        await cancelled.wait()
        await other.close()


async def test_an_accepted_connection_can_be_adopted() -> None:
    """A connection that somebody else has accepted is served like one's own, and closing the server ends it."""
    server = Server({("s", "Refuse"): refuse})
    ours, theirs = socket.socketpair()
    await server.adopt(ours)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    writer.write(encode(1, Kind.REQUEST, 0, pb.Request(service="s", method="Refuse").SerializeToString()))
    header = await reader.readexactly(10)
    status = pb.Response.FromString(await reader.readexactly(HEADER.unpack(header)[0])).status
    assert Code.FAILED_PRECONDITION == status.code
    await server.close()
    assert b"" == await reader.read()
    writer.close()


async def refuse(request: Request) -> bytes:
    raise FailedPrecondition("running", "stopped", "the task")
