"""A WebSocket client for the channel protocols and the tunnel, on wsproto's client role."""

import asyncio
import base64
import contextlib
import os
import ssl
from collections.abc import AsyncIterator

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tests.streaming.spdy_client import SpdyClient, request


class WebSocketClient:
    """One connection. `messages` is what came, whole messages in order; `close_code` how the server ended it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self._reader = reader
        self._writer = writer
        self._wire = Connection(ConnectionType.CLIENT)
        self.head = head
        self.messages: list[bytes | str] = []
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self.gone = asyncio.Event()
        self.grown = asyncio.Event()
        self._whole: bytearray = bytearray()
        self._text = ""

    async def send(self, message: bytes | str) -> None:
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        await self._write(self._wire.send(event))

    async def ping(self, payload: bytes) -> None:
        await self._write(self._wire.send(Ping(payload)))

    async def send_close(self) -> None:
        await self._write(self._wire.send(CloseConnection(1000)))

    def channel(self, number: int) -> bytes:
        """Everything that came on a channel."""
        return b"".join(message[1:] for message in self.messages if isinstance(message, bytes) and message[0] == number)

    async def until(self, number: int, wanted: bytes) -> None:
        """Return when `wanted` has come on the channel."""
        while wanted not in self.channel(number) and not self.gone.is_set():
            self.grown.clear()
            await self.grown.wait()

    async def receive(self) -> None:
        try:
            while data := await self._reader.read(64 * 1024):
                self._wire.receive_data(data)
                for event in self._wire.events():
                    match event:
                        case BytesMessage():
                            self._whole += event.data
                            if event.message_finished:
                                self.messages.append(bytes(self._whole))
                                self._whole.clear()
                        case TextMessage():
                            self._text += event.data
                            if event.message_finished:
                                self.messages.append(self._text)
                                self._text = ""
                        case Pong():
                            self.pongs.append(bytes(event.payload))
                        case CloseConnection():
                            self.close_code = event.code
                            if self._wire.state.name == "REMOTE_CLOSING":
                                await self._write(self._wire.send(event.response()))
                self.grown.set()
        except OSError:
            pass
        finally:
            self.gone.set()
            self.grown.set()

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


@contextlib.asynccontextmanager
async def websocket(url: str, *protocols: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebSocketClient]:
    reader, writer, head = await request(url, handshake(*protocols), method="GET", tls=tls)
    client = WebSocketClient(reader, writer, head)
    receiving = asyncio.create_task(client.receive())
    try:
        yield client
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def handshake(*protocols: str) -> list[str]:
    key = base64.b64encode(os.urandom(16)).decode()
    head = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    return [*head, f"Sec-WebSocket-Protocol: {', '.join(protocols)}"] if protocols else head


class TunnelEnd:
    """The writing and reading ends that `SpdyClient` wants, through a WebSocket's messages."""

    def __init__(self, outer: WebSocketClient) -> None:
        self._outer = outer
        self._seen = 0
        self._buffer = b""
        self._unsent: list[bytes] = []

    async def readexactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            fresh = self._outer.messages[self._seen :]
            self._seen += len(fresh)
            self._buffer += b"".join(message for message in fresh if isinstance(message, bytes))
            if not fresh:
                if self._outer.gone.is_set():
                    raise asyncio.IncompleteReadError(self._buffer, count)
                self._outer.grown.clear()
                await self._outer.grown.wait()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def write(self, data: bytes) -> None:
        self._unsent.append(data)

    async def drain(self) -> None:
        for data in self._unsent:
            half = len(data) // 2
            await self._outer.send(data[:half])
            await self._outer.send(data[half:])
        self._unsent.clear()


@contextlib.asynccontextmanager
async def tunnel(url: str) -> AsyncIterator[SpdyClient]:
    """A SPDY connection inside a WebSocket."""
    async with websocket(url, "SPDY/3.1+portforward.k8s.io") as outer:
        end = TunnelEnd(outer)
        client = SpdyClient(end, end)
        client.head = outer.head
        receiving = asyncio.create_task(client.receive())
        try:
            yield client
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
