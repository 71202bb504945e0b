"""Raw bytes to and from a served world."""

import asyncio
import struct
from collections.abc import Iterator

import pytest

from tests.streaming.spdy_client import HttpRefusal, Remote, request, spdy
from tests.streaming.worlds import SUCCESS, World

UPGRADE = ("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io")


async def refused(url: str, *head: str, method: str = "POST") -> HttpRefusal:
    with pytest.raises(HttpRefusal) as caught:
        await request(url, head, method=method)
    return caught.value


async def spoken(served: World, *pieces: bytes) -> bytes:
    """What comes back for these bytes on a new connection, to its end."""
    reader, writer = await connected(served)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    await closed(writer)
    return answer


async def connected(served: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.server.port)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def still_serves(served: World) -> bool:
    async with spdy(await served.exec("print", "fine")) as client:
        remote = await Remote(client).open("stdout")
        return await remote.stdout.all() == b"fine\n" and await remote.status() == SUCCESS


def frames(wire: bytes) -> Iterator[tuple[int, int, bytes]]:
    """First word, flags and body of each frame."""
    while wire:
        first, second = struct.unpack_from(">II", wire)
        length = second & 0xFFFFFF
        yield first, second >> 24, wire[8 : 8 + length]
        wire = wire[8 + length :]


def data_of(wire: bytes, stream_id: int) -> bytes:
    return b"".join(body for first, _, body in frames(wire) if first == stream_id)
