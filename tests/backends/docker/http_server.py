"""A scripted server on a unix socket, for responses that a real engine gives too rarely."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator

import attrs


@attrs.frozen
class Served:
    """A reply: status and body, or with `raw` the very bytes after which the connection ends."""

    status: int = 200
    body: bytes = b""
    raw: bytes | None = None


class Server:
    """Sends its replies one after the other, whatever the request; records the requests."""

    def __init__(self, path: str, replies: tuple[Served, ...]) -> None:
        self.path = path
        self.targets: list[str] = []
        self.connections = 0
        self._replies = list(replies)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.targets.append(head.split(b" ")[1].decode())
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].partition(b":")[2]) if length else 0)
                reply = self._replies.pop(0)
                if reply.raw is not None:
                    writer.write(reply.raw)
                    await writer.drain()
                    return
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (reply.status, len(reply.body)) + reply.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(*replies: Served) -> AsyncIterator[Server]:
    """A server for the duration of a context."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(f"{folder}/s", replies)
        listener = await asyncio.start_unix_server(server.talk, server.path)
        try:
            yield server
        finally:
            listener.close()
            await listener.wait_closed()
            await asyncio.sleep(0)
