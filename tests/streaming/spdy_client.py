"""A SPDY/3.1 client as those of Kubernetes are, written from the facts of the protocol: it shares no line with our codec.

The preset dictionary is read from a golden file, which the draft's Adler-32 vouches for.
"""

import asyncio
import contextlib
import json
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

DICTIONARY = (Path(__file__).parent.parent / "golden" / "spdy3-dictionary.bin").read_bytes()
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
OFFERED = (*(f"v{version}.channel.k8s.io" for version in (5, 4, 3, 2)), "channel.k8s.io")


class HttpRefusal(Exception):
    def __init__(self, status: int, head: str, body: str) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.head = head
        self.body = body


class SpdyStream:
    """One stream; `content` is the data received so far."""

    def __init__(self, client: "SpdyClient", number: int) -> None:
        self._client = client
        self.number = number
        self.content = bytearray()
        self.accepted = asyncio.Event()
        self.ended = asyncio.Event()
        self.grown = asyncio.Event()
        self.reset_with: int | None = None

    async def send(self, data: bytes, *, fin: bool = False) -> None:
        await self._client.write(struct.pack(">II", self.number, fin << 24 | len(data)) + data)

    async def finish(self) -> None:
        await self.send(b"", fin=True)

    async def give_up(self, status: int = 5) -> None:
        await self._client.write(control(RST_STREAM, struct.pack(">II", self.number, status)))

    async def all(self) -> bytes:
        """Everything, when it has ended."""
        await self.ended.wait()
        return bytes(self.content)

    async def until(self, wanted: bytes) -> bytes:
        """What came, when `wanted` is in it."""
        while wanted not in self.content and not self.ended.is_set():
            self.grown.clear()
            await self.grown.wait()
        return bytes(self.content)


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


class Reader(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...


class SpdyClient:
    """One connection. `reading` cleared makes it a client that stalls."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._next = 1
        self.streams: dict[int, SpdyStream] = {}
        self.pongs: list[int] = []
        self.goaway: int | None = None
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.head = ""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def block(self, headers: Iterable[tuple[str, str]]) -> bytes:
        pairs = list(headers)
        words = [word.encode() for pair in pairs for word in pair]
        raw = struct.pack(">I", len(pairs)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        return self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def opening(self, number: int, /, **headers: str) -> bytes:
        """The bytes that ask for a stream."""
        self._next = max(self._next, number + 2)
        self.streams[number] = SpdyStream(self, number)
        return control(SYN_STREAM, struct.pack(">IIBB", number, 0, 0, 0) + self.block(headers.items()))

    async def start_open(self, number: int | None = None, /, **headers: str) -> SpdyStream:
        """Ask for a stream, without waiting for the answer."""
        number = self._next if number is None else number
        await self.write(self.opening(number, **headers))
        return self.streams[number]

    async def open(self, **headers: str) -> SpdyStream:
        """Ask for a stream, and wait for SYN_REPLY (or the end)."""
        stream = await self.start_open(**headers)
        await stream.accepted.wait()
        return stream

    async def ping(self, number: int) -> None:
        await self.write(control(PING, struct.pack(">I", number)))

    async def send_close(self) -> None:
        await self.write(control(GOAWAY, struct.pack(">II", 0, 0)))

    def drop(self) -> None:
        """Abort the connection."""
        assert isinstance(self._writer, asyncio.StreamWriter)
        self._writer.transport.abort()

    async def close(self) -> None:
        assert isinstance(self._writer, asyncio.StreamWriter)
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()

    async def receive(self) -> None:
        """Read frames until the end; a task of its own."""
        try:
            while True:
                await self.reading.wait()
                first, second = struct.unpack(">II", await self._reader.readexactly(8))
                body = await self._reader.readexactly(second & 0xFFFFFF)
                if first >> 31:
                    assert 3 == first >> 16 & 0x7FFF
                    self._controlled(first & 0xFFFF, body)
                else:
                    self._received(self.streams[first], body, ended=bool(second >> 24 & FIN))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.gone.set()
            for stream in self.streams.values():
                stream.accepted.set()
                stream.ended.set()
                stream.grown.set()

    def _received(self, stream: SpdyStream, body: bytes, *, ended: bool) -> None:
        stream.content += body
        if ended:
            stream.ended.set()
        stream.grown.set()

    def _controlled(self, kind: int, body: bytes) -> None:
        number = int.from_bytes(body[:4], "big")
        match kind:
            case 2:
                assert b"\0\0\0\0" == self._inflate.decompress(body[4:]), "SYN_REPLY has no headers"
                self.streams[number].accepted.set()
            case 3:
                stream = self.streams[number]
                stream.reset_with = int.from_bytes(body[4:], "big")
                stream.accepted.set()
                stream.ended.set()
                stream.grown.set()
            case 6:
                self.pongs.append(number)
            case 7:
                self.goaway = int.from_bytes(body[4:], "big")
            case _:
                raise AssertionError(f"a server of Kubernetes does not send frame type {kind}")


async def request(
    url: str, head: Iterable[str], *, method: str = "POST", tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Send an HTTP request with these header lines; raises `HttpRefusal` unless it is answered by 101."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls, limit=1024 * 1024)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *head, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    status = int(answer.split(" ", 2)[1])
    if status == 101:
        return reader, writer, answer
    body = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    raise HttpRefusal(status, answer, body)


@contextlib.asynccontextmanager
async def spdy(url: str, *protocols: str, method: str = "POST", tls: ssl.SSLContext | None = None) -> AsyncIterator[SpdyClient]:
    """A connection; without `protocols` those that client-go offers for exec."""
    offered = [f"X-Stream-Protocol-Version: {name}" for name in protocols or OFFERED]
    head = ["Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0", *offered]
    reader, writer, answer = await request(url, head, method=method, tls=tls)
    client = SpdyClient(reader, writer)
    client.head = answer
    receiving = asyncio.create_task(client.receive())
    try:
        yield client
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await client.close()


class Remote:
    """The streams of an exec or attach, opened as client-go opens them."""

    def __init__(self, client: SpdyClient) -> None:
        self.client = client
        self.error: SpdyStream
        self.stdin: SpdyStream
        self.stdout: SpdyStream
        self.stderr: SpdyStream
        self.resize: SpdyStream

    async def open(self, *kinds: str) -> "Remote":
        for kind in ("error", *kinds):
            setattr(self, kind, await self.client.open(streamtype=kind))
        return self

    async def status(self) -> Any:
        """What the error stream says at its end; None when it says nothing."""
        content = await self.error.all()
        return json.loads(content) if content else None
